//! How a seed becomes a scenario.

use super::*;

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn in_hundred(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap_or(0)]
    }

    fn span(&mut self) -> u64 {
        let most = self.pick(&[20, 400, 3_000, 12_000]);
        self.below(most)
    }
}

const DIRECT: &str = "D1";
const CONVERSATIONS: [&str; 3] = ["C1", "C2", DIRECT];
/// The first number of a message that stops everything in the direct message.
const DIRECT_STOPS: u32 = 100;
const PEOPLE: [&str; 3] = ["U1", "U2", "U3"];

impl Scenario {
    /// The scenario of a seed: [`Scenario::plain`], in some with a pause of minutes before which a message is missed, and in some
    /// with commands beside `-stop`, or a `-stop` of everything in the direct message.
    pub fn of(seed: u64) -> Self {
        let mut scenario = Self::plain(seed);
        lull(&mut Dice(seed.wrapping_mul(0x9fb2_1c65_1e98_df25) ^ 0x2c1b_3c6d_297a_2d39), &mut scenario);
        commands(&mut Dice(seed.wrapping_mul(0xd1b5_4a32_d192_ed03) ^ 0x1f83_d9ab_fb41_bd6b), &mut scenario);
        direct_stops(&mut Dice(seed.wrapping_mul(0x8cb9_2ba7_2f3d_8dd7) ^ 0x5be0_cd19_137e_2179), &mut scenario);
        scenario
    }

    /// A scenario in which nothing goes wrong but, where `besieged`, everything in one conversation. The two of a seed are
    /// the same otherwise, and every call takes its time.
    pub fn siege(seed: u64, besieged: bool) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0xa24b_aed4_963e_e407) ^ 0x9fb2_1c65_1e98_df25);
        let mut items = Vec::new();
        conversations(&mut dice, 0, &mut items);
        let siege = Siege {
            conversation: CONVERSATIONS[0],
            faults: SIEGES.iter().map(|(call, faults)| (*call, dice.pick(faults))).collect(),
            script: dice.pick(&[
                Script::Hangs,
                Script::Long(3_000),
                Script::Silent,
                Script::Fails,
                Script::Reports(500),
            ]),
        };
        Self {
            seed,
            sockets: 1,
            disk: false,
            turns: 32,
            search_every: 60_000,
            steady: true,
            siege: besieged.then_some(siege),
            items,
        }
    }

    /// What a seed was before there were pauses.
    pub fn plain(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x5851_f42d_4c95_7f2d);
        // Half of the runs have few faults, so that each is seen alone.
        let rough = dice.pick(&[1, 3, 8]);
        let mut items = Vec::new();
        let last = conversations(&mut dice, rough, &mut items);
        around(&mut dice, rough, last, &mut items);
        faults(&mut dice, rough, &mut items);
        Self {
            seed,
            sockets: dice.pick(&[1, 1, 2, 3]),
            disk: dice.in_hundred(8),
            turns: dice.pick(&[1, 2, 32, 32]),
            search_every: dice.pick(&[20_000, 60_000, 120_000]),
            steady: false,
            siege: None,
            items,
        }
    }
}

/// How the calls of one conversation may go wrong for ever without anything being wrong with what all share: the agent's
/// process reads what is given to it in order, and a store that fails fails for all.
const SIEGES: [(Call, &[Fault]); 8] = [
    (Call::Post, &[Fault::Slow(28_000), Fault::Fails(3_000), Fault::Vanishes, Fault::AnswerLost, Fault::Refused]),
    (Call::Status, &[Fault::Slow(28_000), Fault::Fails(3_000), Fault::AnswerLost, Fault::Refused]),
    (Call::Find, &[Fault::Slow(28_000), Fault::Vanishes, Fault::AnswerLost, Fault::Refused]),
    (Call::Page, &[Fault::Slow(28_000), Fault::Fails(3_000), Fault::AnswerLost, Fault::Refused]),
    (Call::Heads, &[Fault::Slow(5_000), Fault::Refused]),
    (Call::Open, &[Fault::Slow(20_000), Fault::Fails(0)]),
    (Call::Submit, &[Fault::Fails(0), Fault::Refused]),
    (Call::Fate, &[Fault::Slow(20_000), Fault::Fails(0)]),
];

/// The longest that a search reads back behind what it has read, and more.
const LULL: u64 = 130_000;

/// In some scenarios nobody writes for minutes, and the last message before that may never arrive.
fn lull(dice: &mut Dice, scenario: &mut Scenario) {
    if !dice.in_hundred(12) {
        return;
    }
    let mut written: Vec<u64> = Vec::new();
    for item in &scenario.items {
        if let Item::Step { at, what: What::Write { .. } } = item {
            written.push(*at);
        }
    }
    let Some(after) = written.len().checked_sub(1).filter(|most| *most > 0) else { return };
    let index = 1 + usize::try_from(dice.below(after as u64)).unwrap_or(0);
    let (missed, cut, pause) = (written[index - 1], written[index], LULL + dice.below(LULL));
    let is_missed = dice.in_hundred(50);
    for item in &mut scenario.items {
        let Item::Step { at, what } = item else { continue };
        if let What::Write { delivery, .. } = what
            && *at == missed
            && is_missed
        {
            *delivery = Delivery::Never;
        }
        if *at >= cut {
            *at += pause;
        }
    }
    // Whatever is missed is looked for after the pause only.
    scenario.search_every = 2 * (LULL + LULL);
}

/// In some scenarios a part of what people write in threads are commands of another kind than `-stop`, and some messages become
/// commands.
fn commands(dice: &mut Dice, scenario: &mut Scenario) {
    if !dice.in_hundred(30) {
        return;
    }
    let mut changed = BTreeSet::new();
    for item in &scenario.items {
        if let Item::Step { what: What::Edit { message, .. } | What::Delete { message, .. }, .. } = item {
            changed.insert(*message);
        }
    }
    for item in &mut scenario.items {
        if let Item::Step { what: What::Edit { command, delivery, .. }, .. } = item
            && !matches!(delivery, Delivery::Twice(..))
            && dice.in_hundred(60)
        {
            *command = Some(dice.pick(&[Command::New, Command::New, Command::Stop, Command::Retry, Command::Help]));
        }
        let Item::Step { what: What::Write { message, thread: Some(_), command, .. }, .. } = item else { continue };
        if command.is_none() && !changed.contains(message) && dice.in_hundred(35) {
            *command = Some(dice.pick(&[Command::New, Command::New, Command::Retry, Command::Status]));
        }
    }
}

/// In some scenarios somebody writes `-stop` at the top of the direct message, soon after something else.
fn direct_stops(dice: &mut Dice, scenario: &mut Scenario) {
    if !dice.in_hundred(40) {
        return;
    }
    let mut written = Vec::new();
    for item in &scenario.items {
        if let Item::Step { at, what: What::Write { conversation: DIRECT, .. } } = item {
            written.push(*at);
        }
    }
    for (number, at) in (DIRECT_STOPS..).zip(written) {
        if dice.in_hundred(60) {
            continue;
        }
        let rough = dice.pick(&[0, 0, 3, 8]);
        let what = What::Write {
            message: number,
            conversation: DIRECT,
            thread: None,
            author: dice.pick(&PEOPLE),
            mentions: false,
            command: Some(Command::Stop),
            delivery: delivery(dice, rough),
        };
        scenario.items.push(Item::Step { at: at + 1 + dice.span(), what });
    }
}

fn delivery(dice: &mut Dice, rough: u64) -> Delivery {
    let first = dice.pick(&[5, 30, 30, 120]);
    let first = 1 + dice.below(first);
    if !dice.in_hundred(rough * 5) {
        return Delivery::Once(first);
    }
    match dice.below(5) {
        0 => Delivery::Never,
        1 => Delivery::Twice(first, dice.below(900)),
        2 => Delivery::Again(first, dice.span()),
        _ => Delivery::Once(first + dice.span()),
    }
}

/// What people write; gives the time of the last.
fn conversations(dice: &mut Dice, rough: u64, items: &mut Vec<Item>) -> u64 {
    let mut at = 200;
    let mut message = 0;
    let mut roots: Vec<(u32, &'static str)> = Vec::new();
    for _ in 0..2 + dice.below(9) {
        at += dice.span();
        message += 1;
        let new = roots.is_empty() || dice.in_hundred(20);
        let (conversation, thread) = if new {
            let conversation = dice.pick(&CONVERSATIONS);
            roots.push((message, conversation));
            (conversation, None)
        } else {
            let index = usize::try_from(dice.below(roots.len() as u64)).unwrap_or(0);
            (roots[index].1, Some(roots[index].0))
        };
        let author = if dice.in_hundred(4) { dice.pick(&["B1", "G1"]) } else { dice.pick(&PEOPLE) };
        let stop = !new && dice.in_hundred(10);
        let mentions = !stop && dice.in_hundred(if new { 85 } else { 25 });
        let delivery = delivery(dice, rough);
        let command = stop.then_some(Command::Stop);
        items.push(Item::Step {
            at,
            what: What::Write { message, conversation, thread, author, mentions, command, delivery },
        });
        if !stop && dice.in_hundred(5) {
            let delivery = self::delivery(dice, rough);
            let what = match dice.in_hundred(50) {
                true => What::Edit { message, command: None, delivery },
                false => What::Delete { message, delivery },
            };
            items.push(Item::Step { at: at + 1 + dice.span(), what });
        }
    }
    at
}

/// What happens around them.
fn around(dice: &mut Dice, rough: u64, last: u64, items: &mut Vec<Item>) {
    for _ in 0..dice.below(rough) {
        let what = match dice.below(6) {
            0 | 1 => {
                let reason =
                    dice.pick(&[Reason::Refresh, Reason::Broken, Reason::TooMany, Reason::Disabled, Reason::HalfOpen]);
                let most = dice.pick(&[1_000, 8_000, 40_000]);
                let gap = 100 + dice.below(most);
                What::Disconnect { socket: usize::try_from(dice.below(3)).unwrap_or(0), reason, gap }
            }
            2 => {
                let call = dice.pick(&[
                    Call::Post,
                    Call::Find,
                    Call::Page,
                    Call::Heads,
                    Call::Person,
                    Call::Accept,
                    Call::Write,
                ]);
                let fault = if call.is_of_store() {
                    Fault::Fails(0)
                } else {
                    dice.pick(&[Fault::Fails(3_000), Fault::Vanishes])
                };
                let most = if call.is_of_store() { 4_000 } else { 40_000 };
                What::Outage { call, fault, millis: dice.below(most) }
            }
            3 | 4 => What::KillCodex,
            _ if dice.in_hundred(25) => What::Drain { away: dice.below(20_000) },
            _ => What::HangCodex { millis: dice.pick(&[2_000, 20_000, 60_000]) },
        };
        items.push(Item::Step { at: dice.below(last + 5_000), what });
    }
    if dice.in_hundred(2) {
        items.push(Item::Step { at: dice.below(last + 5_000), what: What::LoseThreads });
    }
    for _ in 0..dice.below(2 + rough / 2) {
        let most = dice.pick(&[100, 400, 1200]);
        let point = 1 + u32::try_from(dice.below(most)).unwrap_or(0);
        let torn = dice.in_hundred(40).then(|| u32::try_from(dice.below(1000)).unwrap_or(0));
        let away = dice.pick(&[50, 2_000, 30_000]);
        items.push(Item::Crash(Crash { point, away: 10 + dice.below(away), manner: Manner::Killed { torn } }));
    }
}

/// How calls go wrong, and what the agent does.
fn faults(dice: &mut Dice, rough: u64, items: &mut Vec<Item>) {
    const CALLS: [Call; 14] = [
        Call::Post,
        Call::Post,
        Call::Post,
        Call::Submit,
        Call::Submit,
        Call::Find,
        Call::Page,
        Call::Heads,
        Call::Person,
        Call::Open,
        Call::Fate,
        Call::Interrupt,
        Call::Status,
        Call::Write,
    ];
    for _ in 0..dice.below(1 + rough) {
        let call = dice.pick(&CALLS);
        let fault = match dice.below(6) {
            0 => Fault::Slow(dice.span()),
            1 => Fault::Fails(dice.span()),
            2 if call == Call::Post || call == Call::Status => Fault::Late(dice.below(12_000)),
            3 if call == Call::Post => Fault::Refused,
            4 => Fault::Vanishes,
            _ => Fault::AnswerLost,
        };
        let count = 1 + u32::try_from(dice.below(8)).unwrap_or(0);
        items.push(Item::Fault { call, count, fault });
    }
    for turn in 1..=12 {
        if dice.in_hundred(60) {
            continue;
        }
        let millis = 20 + dice.span();
        let script = match dice.below(16) {
            0..=4 => Script::Answers(millis),
            5..=7 => Script::PostsFinal(millis),
            8..=10 => Script::Reports(millis),
            11 | 12 => Script::Long(millis),
            13 => Script::Silent,
            14 => Script::Fails,
            _ => Script::Hangs,
        };
        items.push(Item::Script { turn, script });
    }
}
