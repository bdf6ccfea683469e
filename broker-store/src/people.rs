//! The SQL of people.

use broker_core::chat::{Person, PersonId, Standing};
use broker_core::clock::Timestamp;
use rusqlite::{Connection, named_params};

use crate::sql::{self, Sql};

pub(crate) fn person(connection: &Connection, id: &PersonId) -> Sql<Option<(Person, Timestamp)>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, looked_up_at, display_name, real_name, username, email, team, standing FROM people WHERE id = ?1",
    )?;
    sql::row("people", &mut statement, [id.as_str()], |row| {
        let person = Person {
            id: sql::id(row, "id", PersonId::new)?,
            display_name: row.get("display_name")?,
            real_name: row.get("real_name")?,
            username: row.get("username")?,
            email: row.get("email")?,
            team: row.get("team")?,
            standing: sql::named(row, "standing")?,
        };
        Ok((person, sql::moment(row, "looked_up_at")?))
    })
}

pub(crate) fn put_person(connection: &Connection, person: &Person, at: Timestamp) -> Sql<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO people (id, looked_up_at, display_name, real_name, username, email, team, standing)
         VALUES (:id, :at, :display_name, :real_name, :username, :email, :team, :standing)
         ON CONFLICT (id) DO UPDATE SET
             looked_up_at = excluded.looked_up_at, display_name = excluded.display_name,
             real_name = excluded.real_name, username = excluded.username, email = excluded.email,
             team = excluded.team, standing = excluded.standing",
    )?;
    statement.execute(named_params! {
        ":id": person.id.as_str(),
        ":at": at.as_millis(),
        ":display_name": person.display_name,
        ":real_name": person.real_name,
        ":username": person.username,
        ":email": person.email,
        ":team": person.team,
        ":standing": standing(person.standing),
    })?;
    Ok(())
}

/// The name that is stored.
fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Member => "member",
        Standing::Guest => "guest",
        Standing::External => "external",
        Standing::Bot => "bot",
        Standing::Deactivated => "deactivated",
    }
}
