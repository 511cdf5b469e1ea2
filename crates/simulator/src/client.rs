//! Clients: one request at a time, again with the same id when the outcome is unknown.

use broadcast_protocol::write::{Write, WriteBatch};

use crate::agenda::{Event, Time};
use crate::context::Context;
use crate::report::Seen;

/// How long a client waits for an answer.
const PATIENCE: Time = 15_000;

/// A request on its way to a heart.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) client: usize,
    /// Which attempt it is: a late answer to an earlier one is void.
    pub(crate) attempt: u64,
    pub(crate) writes: WriteBatch,
}

/// What a heart answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Placed,
    NotPublished,
    Unknown,
}

#[derive(Debug, Default)]
pub(crate) struct Client {
    index: usize,
    attempt: u64,
    request: Option<Request>,
    /// An answer is waited for until then.
    deadline: Option<Time>,
    /// When the last request was made.
    pub(crate) answered: Time,
    is_done: bool,
}

#[derive(Debug)]
struct Request {
    writes: WriteBatch,
    has_ids: bool,
}

impl Client {
    pub(crate) fn new(index: usize) -> Self {
        Self { index, ..Self::default() }
    }

    /// No more requests after this one.
    pub(crate) fn finish(&mut self) {
        self.is_done = true;
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.is_done && self.request.is_none()
    }

    /// Looks at the time; `heart` is one that says it is active.
    pub(crate) fn act(&mut self, ctx: &mut Context, heart: Option<usize>) {
        if let Some(deadline) = self.deadline {
            if ctx.now < deadline {
                return;
            }
            self.doubt(ctx);
        }
        if self.request.is_none() {
            if self.is_done {
                return;
            }
            self.request = Some(draw(ctx));
        }
        let (Some(heart), Some(request)) = (heart, &self.request) else {
            return ctx.plan_in(200, Event::Client(self.index));
        };
        self.attempt += 1;
        let writes = request.writes.clone();
        let submission = Submission { client: self.index, attempt: self.attempt, writes };
        let delay = ctx.latency();
        ctx.plan_in(delay, Event::Submit(heart, submission));
        self.deadline = Some(ctx.now + PATIENCE);
        ctx.plan_in(PATIENCE, Event::Client(self.index));
    }

    pub(crate) fn hear(&mut self, ctx: &mut Context, attempt: u64, answer: Answer) {
        if attempt != self.attempt || self.deadline.is_none() {
            return;
        }
        match answer {
            Answer::Placed => {
                self.deadline = None;
                self.request = None;
                self.answered = ctx.now;
            }
            Answer::NotPublished => self.deadline = None,
            Answer::Unknown => self.doubt(ctx),
        }
        let gap = ctx.settings.client_gap;
        let delay = ctx.rng.within(gap / 2, gap * 2);
        ctx.plan_in(delay, Event::Client(self.index));
    }

    fn doubt(&mut self, ctx: &mut Context) {
        ctx.count(Seen::ClientUnknown);
        self.deadline = None;
        if self.request.as_ref().is_some_and(|request| request.has_ids) {
            ctx.count(Seen::ClientRetried);
        } else {
            // Without an id it might be made twice.
            self.request = None;
        }
    }
}

fn draw(ctx: &mut Context) -> Request {
    let has_ids = ctx.rng.chance(700);
    let mut writes = WriteBatch::default();
    for _ in 0..ctx.rng.within(1, 3) {
        let (key, number) = (ctx.rng.index(6), ctx.rng.nonce());
        let id = if has_ids { format!(r#","id":"{number}""#) } else { String::new() };
        let condition = if ctx.rng.chance(100) { r#","if":{"absent":true}"# } else { "" };
        let json = if ctx.rng.chance(150) {
            format!(r#"{{"op":"delete","collection":"c","key":"{key}"{id}}}"#)
        } else {
            format!(r#"{{"op":"put","collection":"c","key":"{key}","value":{number}{id}{condition}}}"#)
        };
        if let Ok(write) = Write::parse(&json, "write") {
            writes.push(&write);
        }
    }
    Request { writes, has_ids }
}
