//! What stands beside a thread while the agent is at work: one line per thread, and the calls that keep it true. Pure.
//!
//! A status must never outlive its turn: it tells people to wait for something that will not come, and some clients close
//! the compose box meanwhile. So the calls of a thread go one after another, each after the answer to the one before, and
//! whatever may stand is taken away. Where an answer was lost, the call may still have its effect later: the status is
//! taken away a second time once that can no longer be.
//!
//! The platform takes a status away by itself when the broker posts into the thread, and two minutes after it was set
//! (<https://docs.slack.dev/reference/methods/assistant.threads.setStatus>); it is set again after the first and before
//! the second. Where a status is refused, a reaction on the thread's first message stands in for it.

use std::time::Duration;

use crate::chat::DeliverError;
use crate::clock::Timestamp;

/// Between the answer to a call and the next call of the same thread.
pub const SPACING: Duration = Duration::from_secs(2);
/// A status that stays the same is set again after this time.
pub const RENEW_AFTER: Duration = Duration::from_secs(90);
/// A call whose answer was lost has had its effect after this time, or never will.
pub const LATE_EFFECT: Duration = Duration::from_secs(30);
/// Calls that fail one after another before the line is given up. The next turn tries again.
pub const MAX_FAILURES: u32 = 10;
/// The longest pause after a failure that names none.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How a thread shows that the agent is at work, the best way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The platform's own status.
    Status,
    /// A reaction on the thread's first message.
    Reaction,
    /// Not at all.
    Nothing,
}

/// A call to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusCall {
    /// Set the status.
    Set(&'static str),
    /// Take the status away.
    Clear,
    /// Put the reaction there.
    React,
    /// Take the reaction away.
    Unreact,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Make this call, and tell its answer to [`StatusLine::answered`].
    Call(StatusCall),
    /// Nothing before this moment, unless something changes.
    Wait(Timestamp),
    /// Nothing until something changes: the reaction stands, and stays.
    Rest,
    /// Nothing any more.
    Settled {
        /// Whether it is certain that nothing stands.
        clean: bool,
    },
}

/// What may stand on the platform, and has to be taken away.
#[derive(Debug, Clone, Copy, Default)]
struct Remains {
    stands: bool,
    /// Until when a call whose answer was lost may still put it there.
    late_until: Option<Timestamp>,
}

impl Remains {
    /// When it is to be taken away.
    fn due(self, now: Timestamp) -> Option<Timestamp> {
        if self.stands { Some(now) } else { self.late_until }
    }

    fn was_put(&mut self) {
        self.stands = true;
    }

    fn may_be_put(&mut self, now: Timestamp) {
        self.stands = true;
        self.late_until = Some(now.plus(LATE_EFFECT));
    }

    fn was_taken(&mut self, now: Timestamp) {
        self.stands = false;
        self.late_until.take_if(|until| *until <= now);
    }
}

/// The line of one thread.
#[derive(Debug, Clone)]
pub struct StatusLine {
    way: Way,
    wanted: Option<&'static str>,
    /// What stands by our knowledge, and since when.
    shown: Option<(&'static str, Timestamp)>,
    /// What may stand of a status.
    status: Remains,
    /// What may stand of the reaction.
    reaction: Remains,
    not_before: Timestamp,
    failures: u32,
}

impl StatusLine {
    /// A line that shows nothing yet.
    pub fn new(way: Way, now: Timestamp) -> Self {
        Self {
            way,
            wanted: None,
            shown: None,
            status: Remains::default(),
            reaction: Remains::default(),
            not_before: now,
            failures: 0,
        }
    }

    /// How the line is shown.
    pub fn way(&self) -> Way {
        self.way
    }

    /// Before this moment there is no further call: whoever forgets the line earlier may call too soon.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// From here on this shall stand, or nothing.
    pub fn want(&mut self, text: Option<&'static str>) {
        self.wanted = text;
        self.failures = 0;
    }

    /// An earlier broker may have left a status or a reaction.
    pub fn distrust(&mut self) {
        self.status.stands = self.way == Way::Status;
        self.reaction.stands = true;
    }

    /// The broker posted into the thread, which takes the status away; it counts as standing until it was cleared.
    pub fn posted(&mut self) {
        if self.way == Way::Status {
            self.shown = None;
        }
    }

    /// What is to be done now.
    pub fn next(&self, now: Timestamp) -> Next {
        if self.failures >= MAX_FAILURES {
            return if self.wanted.is_some() { Next::Rest } else { Next::Settled { clean: false } };
        }
        match self.due(now) {
            Next::Call(_) if now < self.not_before => Next::Wait(self.not_before),
            next => next,
        }
    }

    fn due(&self, now: Timestamp) -> Next {
        let unused = |way| self.way != way || self.wanted.is_none();
        let mut later: Option<Timestamp> = None;
        for (way, remains, call) in
            [(Way::Reaction, self.reaction, StatusCall::Unreact), (Way::Status, self.status, StatusCall::Clear)]
        {
            match remains.due(now).filter(|_| unused(way)) {
                Some(due) if due <= now => return Next::Call(call),
                Some(due) => later = Some(later.map_or(due, |known| known.min(due))),
                None => {}
            }
        }
        match (self.show(now), later) {
            (Next::Wait(until), Some(later)) => Next::Wait(until.min(later)),
            (Next::Rest | Next::Settled { .. }, Some(later)) => Next::Wait(later),
            (next, _) => next,
        }
    }

    /// What makes the wanted stand.
    fn show(&self, now: Timestamp) -> Next {
        match (self.wanted, self.way) {
            (Some(text), Way::Status) => match self.shown {
                Some((shown, since)) if shown == text && now < since.plus(RENEW_AFTER) => {
                    Next::Wait(since.plus(RENEW_AFTER))
                }
                _ => Next::Call(StatusCall::Set(text)),
            },
            (Some(_), Way::Reaction) if self.shown.is_none() => Next::Call(StatusCall::React),
            (Some(_), _) => Next::Rest,
            (None, _) => Next::Settled { clean: true },
        }
    }

    /// The answer to a call.
    pub fn answered(&mut self, call: StatusCall, result: Result<(), &DeliverError>, now: Timestamp) {
        self.not_before = now.plus(SPACING);
        match result {
            Ok(()) => self.done(call, now),
            Err(DeliverError::Refused { .. }) => self.refused(call),
            Err(DeliverError::Temporary { retry_after, .. }) => self.pause(*retry_after, now),
            Err(DeliverError::Account { .. }) => self.pause(None, now),
            Err(DeliverError::Unknown { .. }) => {
                self.lost(call, now);
                self.pause(None, now);
            }
        }
    }

    fn done(&mut self, call: StatusCall, now: Timestamp) {
        self.failures = 0;
        match call {
            StatusCall::Set(text) => {
                self.shown = Some((text, now));
                self.status.was_put();
            }
            StatusCall::React => {
                self.shown = self.wanted.map(|text| (text, now));
                self.reaction.was_put();
            }
            StatusCall::Clear => {
                self.shown = None;
                self.status.was_taken(now);
            }
            StatusCall::Unreact => {
                if self.way == Way::Reaction {
                    self.shown = None;
                }
                self.reaction.was_taken(now);
            }
        }
    }

    /// It may have had its effect, or have it yet.
    fn lost(&mut self, call: StatusCall, now: Timestamp) {
        match call {
            StatusCall::Set(_) => {
                self.shown = None;
                self.status.may_be_put(now);
            }
            StatusCall::React => self.reaction.may_be_put(now),
            // A late one takes away what was set since: it is set again.
            StatusCall::Clear => self.shown = None,
            StatusCall::Unreact => {}
        }
    }

    /// What is refused is not tried again, and what cannot be set does not stand.
    fn refused(&mut self, call: StatusCall) {
        self.failures = 0;
        self.shown = None;
        match call {
            StatusCall::Set(_) | StatusCall::Clear => {
                if self.way == Way::Status {
                    self.way = Way::Reaction;
                }
                self.status = Remains::default();
            }
            StatusCall::React | StatusCall::Unreact => {
                if self.way == Way::Reaction {
                    self.way = Way::Nothing;
                }
                self.reaction = Remains::default();
            }
        }
    }

    fn pause(&mut self, asked: Option<Duration>, now: Timestamp) {
        self.failures += 1;
        let pause = asked.unwrap_or_else(|| SPACING.saturating_mul(1 << self.failures.min(5)).min(LONGEST_PAUSE));
        self.not_before = now.plus(pause.max(SPACING));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const THINKING: &str = "is thinking…";
    const RUNNING: &str = "is running a command…";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn refused() -> DeliverError {
        DeliverError::Refused { code: "missing_scope".to_owned() }
    }

    fn unknown() -> DeliverError {
        DeliverError::Unknown { reason: "no answer".to_owned() }
    }

    fn line() -> StatusLine {
        StatusLine::new(Way::Status, at(0))
    }

    #[test]
    fn a_status_is_set_changed_renewed_and_taken_away_two_seconds_apart_at_least() {
        let mut line = line();
        assert_eq!(line.next(at(0)), Next::Settled { clean: true });
        line.want(Some(THINKING));
        assert_eq!(line.next(at(0)), Next::Call(StatusCall::Set(THINKING)));
        line.answered(StatusCall::Set(THINKING), Ok(()), at(1));
        assert_eq!(line.next(at(1)), Next::Wait(at(91)), "renewed before Slack's two minutes");
        line.want(Some(RUNNING));
        assert_eq!(line.next(at(1)), Next::Wait(at(3)));
        assert_eq!(line.next(at(3)), Next::Call(StatusCall::Set(RUNNING)));
        line.answered(StatusCall::Set(RUNNING), Ok(()), at(3));
        assert_eq!(line.next(at(93)), Next::Call(StatusCall::Set(RUNNING)));
        line.answered(StatusCall::Set(RUNNING), Ok(()), at(93));
        line.want(None);
        assert_eq!(line.next(at(94)), Next::Wait(at(95)));
        assert_eq!(line.next(at(95)), Next::Call(StatusCall::Clear));
        line.answered(StatusCall::Clear, Ok(()), at(95));
        assert_eq!(line.next(at(95)), Next::Settled { clean: true });
    }

    #[test]
    fn a_post_takes_the_status_away_and_it_is_set_again_or_cleared_for_certain() {
        let mut line = line();
        line.want(Some(THINKING));
        line.answered(StatusCall::Set(THINKING), Ok(()), at(0));
        line.posted();
        assert_eq!(line.next(at(5)), Next::Call(StatusCall::Set(THINKING)));
        line.answered(StatusCall::Set(THINKING), Ok(()), at(5));
        line.posted();
        line.want(None);
        assert_eq!(line.next(at(9)), Next::Call(StatusCall::Clear));
    }

    #[test]
    fn a_status_whose_answer_was_lost_is_taken_away_again_when_it_can_no_longer_land() {
        let mut line = line();
        line.want(Some(THINKING));
        line.answered(StatusCall::Set(THINKING), Err(&unknown()), at(10));
        line.want(None);
        assert_eq!(line.next(at(14)), Next::Call(StatusCall::Clear));
        line.answered(StatusCall::Clear, Ok(()), at(14));
        assert_eq!(line.next(at(20)), Next::Wait(at(40)));
        assert_eq!(line.next(at(40)), Next::Call(StatusCall::Clear));
        line.answered(StatusCall::Clear, Ok(()), at(40));
        assert_eq!(line.next(at(42)), Next::Settled { clean: true });
    }

    #[test]
    fn where_a_status_is_refused_a_reaction_stands_in_and_where_that_is_refused_nothing() {
        let mut line = line();
        line.want(Some(THINKING));
        line.answered(StatusCall::Set(THINKING), Err(&refused()), at(0));
        assert_eq!(line.next(at(2)), Next::Call(StatusCall::React));
        line.answered(StatusCall::React, Ok(()), at(2));
        assert_eq!(line.next(at(4)), Next::Rest);
        line.want(Some(RUNNING));
        assert_eq!(line.next(at(4)), Next::Rest, "a reaction has no words");
        line.want(None);
        assert_eq!(line.next(at(4)), Next::Call(StatusCall::Unreact));
        line.answered(StatusCall::Unreact, Err(&refused()), at(4));
        assert_eq!((line.way(), line.next(at(6))), (Way::Nothing, Next::Settled { clean: true }));
    }

    #[test]
    fn what_an_earlier_broker_may_have_left_is_taken_away_whichever_it_was() {
        let mut line = line();
        line.distrust();
        assert_eq!(line.next(at(0)), Next::Call(StatusCall::Unreact));
        line.answered(StatusCall::Unreact, Ok(()), at(0));
        assert_eq!(line.next(at(2)), Next::Call(StatusCall::Clear));
        line.answered(StatusCall::Clear, Err(&refused()), at(2));
        assert_eq!(line.next(at(4)), Next::Settled { clean: true });
    }

    #[test]
    fn a_rate_limit_is_waited_out_and_endless_failures_end() {
        let limited = DeliverError::Temporary { reason: "429".to_owned(), retry_after: Some(Duration::from_secs(7)) };
        let mut line = line();
        line.want(Some(THINKING));
        line.answered(StatusCall::Set(THINKING), Err(&limited), at(0));
        assert_eq!(line.next(at(0)), Next::Wait(at(7)));
        let mut now = at(0);
        for _ in 1..MAX_FAILURES {
            line.answered(StatusCall::Set(THINKING), Err(&unknown()), now);
            now = now.plus(Duration::from_secs(60));
        }
        assert_eq!(line.next(now), Next::Rest);
        line.want(None);
        assert_eq!(line.next(now), Next::Call(StatusCall::Clear), "a change is worth another try");
    }

    /// A platform that answers a call at once or late, does it or not, and takes a status away when something is posted.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Want(Option<&'static str>),
        Post,
        Pass(i64),
        Answer(Fate),
    }

    #[derive(Debug, Clone, Copy)]
    enum Fate {
        Done,
        Nothing,
        /// Done after this many seconds, with nobody left to hear it.
        Late(i64),
        Lost,
        Refused,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            proptest::sample::select(vec![None, Some(THINKING), Some(RUNNING)]).prop_map(Event::Want),
            Just(Event::Post),
            (0_i64..120).prop_map(Event::Pass),
            Just(Event::Answer(Fate::Done)),
            Just(Event::Answer(Fate::Nothing)),
            (0_i64..30).prop_map(|seconds| Event::Answer(Fate::Late(seconds))),
            Just(Event::Answer(Fate::Lost)),
            Just(Event::Answer(Fate::Refused)),
        ];
        proptest::collection::vec(event, 0..60)
    }

    #[derive(Default)]
    struct World {
        status: Option<&'static str>,
        reaction: bool,
        late: Vec<(Timestamp, StatusCall)>,
        refuses: bool,
    }

    impl World {
        fn apply(&mut self, call: StatusCall) {
            match call {
                StatusCall::Set(text) => self.status = Some(text),
                StatusCall::Clear => self.status = None,
                StatusCall::React => self.reaction = true,
                StatusCall::Unreact => self.reaction = false,
            }
        }

        fn pass(&mut self, now: Timestamp) {
            let (due, later): (Vec<_>, Vec<_>) = self.late.drain(..).partition(|(at, _)| *at <= now);
            self.late = later;
            for (_, call) in due {
                self.apply(call);
            }
        }

        /// Answers a call, and tells the line.
        fn answer(&mut self, line: &mut StatusLine, call: StatusCall, fate: Fate, now: Timestamp) {
            let status = matches!(call, StatusCall::Set(_) | StatusCall::Clear);
            let lost = unknown();
            match fate {
                // Once refused it is always refused; a platform that had set one can take it away.
                Fate::Refused if status && (self.refuses || self.status.is_none()) => {
                    self.refuses = true;
                    self.late.retain(|(_, call)| !matches!(call, StatusCall::Set(_)));
                    line.answered(call, Err(&refused()), now);
                }
                _ if status && self.refuses => line.answered(call, Err(&refused()), now),
                Fate::Done | Fate::Refused => {
                    self.apply(call);
                    line.answered(call, Ok(()), now);
                }
                Fate::Nothing => line.answered(call, Err(&lost), now),
                Fate::Lost => {
                    self.apply(call);
                    line.answered(call, Err(&lost), now);
                }
                Fate::Late(seconds) => {
                    self.late.push((now.plus(Duration::from_secs(seconds.unsigned_abs())), call));
                    line.answered(call, Err(&lost), now);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn nothing_is_left_standing_whatever_happens(events in events()) {
            let mut world = World::default();
            let mut line = line();
            let mut now = at(0);
            let mut last_call: Option<Timestamp> = None;
            for event in events {
                match event {
                    Event::Want(text) => line.want(text),
                    Event::Post => {
                        world.status = None;
                        line.posted();
                    }
                    Event::Pass(seconds) => now = now.plus(Duration::from_secs(seconds.unsigned_abs())),
                    Event::Answer(fate) => {
                        if let Next::Call(call) = line.next(now) {
                            prop_assert!(last_call.is_none_or(|last| now.since(last) >= SPACING));
                            last_call = Some(now);
                            world.answer(&mut line, call, fate, now);
                        }
                    }
                }
                world.pass(now);
            }
            line.want(None);
            for _ in 0..20 {
                match line.next(now) {
                    Next::Call(call) => world.answer(&mut line, call, Fate::Done, now),
                    Next::Wait(until) => now = until,
                    Next::Rest => prop_assert!(false, "nothing is wanted, and yet it rests"),
                    Next::Settled { clean } => {
                        prop_assert!(clean);
                        break;
                    }
                }
                world.pass(now);
            }
            now = now.plus(Duration::from_secs(600));
            world.pass(now);
            prop_assert_eq!(line.next(now), Next::Settled { clean: true });
            prop_assert_eq!((world.status, world.reaction), (None, false));
        }
    }
}
