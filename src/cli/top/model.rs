//! What is known, and what of it is to be shown; pure. Answers and actions come in, with the time.

use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::TopCommand;
use super::asking::{Answer, Wanted};
use super::keys::{Action, Scroll, Turn};
use super::rates::Between;
use crate::observe::{RequestOrder, Requests, Status, Which};

/// How long it is said that another process answers than before.
const NEWS_TIME: Duration = Duration::from_secs(30);

/// A part of the view that has rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Requests,
    Events,
    Routes,
    Endpoints,
}

impl Part {
    /// In the order in which Tab goes through them.
    pub(super) const ALL: [Self; 4] = [Self::Requests, Self::Events, Self::Routes, Self::Endpoints];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Events => "events",
            Self::Routes => "routes",
            Self::Endpoints => "endpoints",
        }
    }
}

/// What the view has made of the model, for scrolling: how far the chosen part goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Extent {
    /// Rows that are seen at a time.
    pub(super) page: usize,
    /// The last row that may be the first on the screen.
    pub(super) last: usize,
}

/// What the one who runs it has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    Quit,
    Suspend,
    Redraw,
}

/// What came last of one question.
#[derive(Debug)]
pub(super) struct Heard<T> {
    /// The last good answer.
    pub(super) last: Option<T>,
    /// Why there has been none since.
    pub(super) trouble: Option<Trouble>,
}

impl<T> Default for Heard<T> {
    fn default() -> Self {
        Self {
            last: None,
            trouble: None,
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) why: String,
    /// When the first such answer came.
    pub(super) since: Instant,
}

impl<T> Heard<T> {
    fn fail(&mut self, why: String, now: Instant) {
        let since = self.trouble.as_ref().map_or(now, |before| before.since);
        self.trouble = Some(Trouble { why, since });
    }

    fn succeed(&mut self, answer: T) -> Option<T> {
        self.trouble = None;
        self.last.replace(answer)
    }
}

/// Another process than before answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct News {
    /// The process that did before.
    pub(super) pid_before: u32,
    pub(super) since: Instant,
}

/// Everything that the view is made from.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) which: Which,
    pub(super) sort: RequestOrder,
    pub(super) interval: Duration,
    /// Since when nothing is asked for.
    pub(super) paused: Option<Instant>,
    pub(super) is_help_shown: bool,
    pub(super) part: Part,
    pub(super) status: Heard<Status>,
    /// The status before the last one.
    before: Option<Status>,
    news: Option<News>,
    pub(super) requests: Heard<Requests>,
    /// The first row of each part, in the order of [`Part::ALL`], and of the help.
    offsets: [usize; Part::ALL.len() + 1],
    /// Of what is scrolled, as it was drawn last.
    pub(super) extent: Extent,
}

impl Model {
    pub(super) fn new(command: &TopCommand) -> Self {
        Self {
            which: command.which(),
            sort: command.sort,
            interval: command.interval,
            paused: None,
            is_help_shown: false,
            part: Part::Requests,
            status: Heard::default(),
            before: None,
            news: None,
            requests: Heard::default(),
            offsets: [0; Part::ALL.len() + 1],
            extent: Extent::default(),
        }
    }

    // --- what is heard --------------------------------------------------------------------------

    /// Takes note of an answer. What was asked before a pause, or for another route, comes too late.
    pub(super) fn hear(&mut self, answer: Answer, now: Instant) {
        if self.paused.is_some() {
            return;
        }
        match answer {
            Answer::Status(Ok(status)) => self.hear_status(status, now),
            Answer::Status(Err(error)) => self.status.fail(error.to_string(), now),
            Answer::Requests(which, _) if which != self.which => {}
            Answer::Requests(_, Ok(mut requests)) => {
                self.sort.sort(&mut requests.requests);
                self.requests.succeed(requests);
            }
            Answer::Requests(_, Err(error)) => self.requests.fail(error.to_string(), now),
        }
    }

    fn hear_status(&mut self, status: Status, now: Instant) {
        let (pid, started) = (status.pid, status.started_at_seconds);
        self.before = self.status.succeed(status);
        if let Some(before) = &self.before
            && (before.pid, before.started_at_seconds) != (pid, started)
        {
            self.news = Some(News {
                pid_before: before.pid,
                since: now,
            });
        }
    }

    /// What has come since the status before.
    pub(super) fn between(&self) -> Option<Between<'_>> {
        Between::new(self.before.as_ref()?, self.status.last.as_ref()?)
    }

    /// Whether it is news that another process answers.
    pub(super) fn news(&self, now: Instant) -> Option<News> {
        let is_new = |news: &News| now.saturating_duration_since(news.since) < NEWS_TIME;
        self.news.filter(is_new)
    }

    // --- what is wanted -------------------------------------------------------------------------

    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            which: self.which.clone(),
            is_paused: self.paused.is_some(),
        }
    }

    /// Does what a key is for.
    pub(super) fn act(&mut self, action: Action, now: Instant) -> Effect {
        match action {
            Action::Quit if self.is_help_shown => self.is_help_shown = false,
            Action::Quit | Action::QuitAtOnce => return Effect::Quit,
            Action::Suspend => return Effect::Suspend,
            Action::Redraw => return Effect::Redraw,
            Action::Sort(turn) => self.sort_otherwise(turn),
            Action::Route(turn) => self.choose_route(turn),
            Action::Pause if self.paused.is_some() => self.paused = None,
            Action::Pause => self.paused = Some(now),
            Action::Idle => self.which.idle = !self.which.idle,
            Action::Part(turn) => {
                let at = self.place_of_part();
                self.part = Part::ALL[turn.of(at, Part::ALL.len())];
            }
            Action::Scroll(scroll) => self.scroll(scroll),
            Action::Help => self.is_help_shown = !self.is_help_shown,
        }
        Effect::Nothing
    }

    fn sort_otherwise(&mut self, turn: Turn) {
        let orders = RequestOrder::value_variants();
        let at = orders.iter().position(|order| *order == self.sort);
        self.sort = orders[turn.of(at.expect("every order is listed"), orders.len())];
        if let Some(requests) = &mut self.requests.last {
            self.sort.sort(&mut requests.requests);
        }
    }

    /// The routes as they are configured, and before the first of them all.
    fn choose_route(&mut self, turn: Turn) {
        let Some(status) = &self.status.last else {
            return;
        };
        let retired = status.retired_routes.iter().map(|route| &route.name);
        let names = status.routes.iter().map(|route| &route.name).chain(retired);
        let choices: Vec<Option<&String>> = [None].into_iter().chain(names.map(Some)).collect();
        let chosen = self.which.route.as_ref();
        // One that is gone has the place of all.
        let at = choices.iter().position(|choice| *choice == chosen);
        if chosen.is_some() {
            // What was told is that route's alone.
            self.requests.last = None;
        }
        self.which.route = choices[turn.of(at.unwrap_or(0), choices.len())].cloned();
        self.offsets = Default::default();
    }

    /// Whether anything of this route is to be shown.
    pub(super) fn is_chosen(&self, route: &str) -> bool {
        self.which.route.as_ref().is_none_or(|name| name == route)
    }

    // --- where one is ---------------------------------------------------------------------------

    fn place_of_part(&self) -> usize {
        let at = Part::ALL.iter().position(|part| *part == self.part);
        at.expect("every part is listed")
    }

    fn place_of_offset(&self) -> usize {
        match self.is_help_shown {
            true => Part::ALL.len(),
            false => self.place_of_part(),
        }
    }

    fn scroll(&mut self, scroll: Scroll) {
        let Extent { page, last } = self.extent;
        let place = self.place_of_offset();
        let offset = &mut self.offsets[place];
        // What was there may have become less.
        *offset = (*offset).min(last);
        *offset = match scroll {
            Scroll::LineUp => offset.saturating_sub(1),
            Scroll::LineDown => (*offset + 1).min(last),
            Scroll::PageUp => offset.saturating_sub(page.max(1)),
            Scroll::PageDown => (*offset + page.max(1)).min(last),
            Scroll::First => 0,
            Scroll::Last => last,
        };
    }

    /// The first row of a part.
    pub(super) fn offset(&self, part: Part) -> usize {
        let at = Part::ALL.iter().position(|it| *it == part);
        self.offsets[at.expect("every part is listed")]
    }

    /// The first row of the help.
    pub(super) fn offset_of_help(&self) -> usize {
        self.offsets[Part::ALL.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn heard(status: Status) -> Model {
        let mut model = samples::model();
        model.hear(Answer::Status(Ok(status)), Instant::now());
        model
    }

    fn later(mut status: Status) -> Status {
        status.uptime_seconds += 1.0;
        status
    }

    #[test]
    fn the_second_status_has_rates() {
        let mut model = heard(samples::busy());
        assert!(model.between().is_none());
        model.hear(Answer::Status(Ok(later(samples::busy()))), Instant::now());
        assert_eq!(model.between().map(|between| between.seconds), Some(1.0));
    }

    #[test]
    fn another_process_is_news_for_a_while_and_has_no_rates_at_first() {
        let now = Instant::now();
        let mut model = heard(samples::busy());
        assert!(model.news(now).is_none());
        let mut other = samples::busy();
        (other.pid, other.started_at_seconds) = (5000, 1.8e9);
        other.uptime_seconds = 1.0;
        model.hear(Answer::Status(Ok(other.clone())), now);
        assert!(model.between().is_none());
        let news = model.news(now + Duration::from_secs(2)).unwrap();
        assert_eq!((news.pid_before, news.since), (4711, now));
        assert!(model.news(now + NEWS_TIME).is_none());
        model.hear(Answer::Status(Ok(later(other))), now);
        assert!(model.between().is_some());
    }

    #[test]
    fn what_was_known_stays_while_there_is_no_answer() {
        let now = Instant::now();
        let mut model = heard(samples::busy());
        let later = now + Duration::from_secs(3);
        model.hear(Answer::Status(Err(samples::no_answer())), now);
        model.hear(Answer::Status(Err(samples::no_answer())), later);
        let trouble = model.status.trouble.as_ref().unwrap();
        assert_eq!(trouble.since, now);
        assert!(trouble.why.contains("no such socket"), "{}", trouble.why);
        assert!(model.status.last.is_some());
        model.hear(Answer::Status(Ok(samples::busy())), later);
        assert!(model.status.trouble.is_none());
    }

    #[test]
    fn requests_come_in_order_and_are_put_in_another_one() {
        let mut model = samples::model();
        let which = model.which.clone();
        let requests = Ok(samples::requests());
        model.hear(Answer::Requests(which, requests), Instant::now());
        let is_sorted = |model: &Model| {
            let rows = &model.requests.last.as_ref().unwrap().requests;
            match model.sort {
                RequestOrder::Age => rows.is_sorted_by(|a, b| a.age_seconds >= b.age_seconds),
                RequestOrder::Wait => rows.is_sorted_by(|a, b| a.queue_seconds >= b.queue_seconds),
                _ => false,
            }
        };
        assert!(is_sorted(&model));
        model.act(Action::Sort(Turn::Next), Instant::now());
        assert_eq!(model.sort, RequestOrder::Wait);
        assert!(is_sorted(&model));
        model.act(Action::Sort(Turn::Previous), Instant::now());
        model.act(Action::Sort(Turn::Previous), Instant::now());
        assert_eq!(model.sort, RequestOrder::Uri);
    }

    #[test]
    fn routes_are_gone_through_and_then_all_of_them() {
        let mut model = heard(samples::busy());
        let mut seen = Vec::new();
        for _ in 0..4 {
            model.act(Action::Route(Turn::Next), Instant::now());
            seen.push(model.wanted().which.route);
        }
        let expected = [Some("php"), Some("other"), Some("old"), None];
        assert_eq!(seen, expected.map(|name| name.map(str::to_owned)));
        model.act(Action::Route(Turn::Previous), Instant::now());
        assert_eq!(model.which.route.as_deref(), Some("old"));
        // A reload takes it away.
        model.hear(Answer::Status(Ok(samples::small())), Instant::now());
        model.act(Action::Route(Turn::Next), Instant::now());
        assert_eq!(model.which.route.as_deref(), Some("php"));
    }

    #[test]
    fn what_was_asked_for_another_route_comes_too_late() {
        let mut model = heard(samples::busy());
        let before = model.which.clone();
        model.act(Action::Route(Turn::Next), Instant::now());
        model.hear(
            Answer::Requests(before, Ok(samples::requests())),
            Instant::now(),
        );
        assert!(model.requests.last.is_none());
        let now = model.which.clone();
        model.hear(
            Answer::Requests(now, Ok(samples::requests())),
            Instant::now(),
        );
        assert!(model.requests.last.is_some());
    }

    #[test]
    fn nothing_changes_during_a_pause() {
        let mut model = heard(samples::busy());
        model.act(Action::Pause, Instant::now());
        assert!(model.wanted().is_paused);
        model.hear(Answer::Status(Ok(samples::small())), Instant::now());
        assert_eq!(model.status.last.as_ref(), Some(&samples::busy()));
        model.act(Action::Pause, Instant::now());
        assert!(!model.wanted().is_paused);
        model.hear(Answer::Status(Ok(samples::small())), Instant::now());
        assert_eq!(model.status.last.as_ref(), Some(&samples::small()));
    }

    #[test]
    fn scrolling_stays_within_what_was_drawn() {
        let mut model = samples::model();
        let now = Instant::now();
        model.extent = Extent { page: 5, last: 12 };
        for (scroll, offset) in [
            (Scroll::LineUp, 0),
            (Scroll::LineDown, 1),
            (Scroll::PageDown, 6),
            (Scroll::PageDown, 11),
            (Scroll::PageDown, 12),
            (Scroll::LineDown, 12),
            (Scroll::PageUp, 7),
            (Scroll::First, 0),
            (Scroll::Last, 12),
        ] {
            model.act(Action::Scroll(scroll), now);
            assert_eq!(model.offset(Part::Requests), offset, "{scroll:?}");
        }
        // Most of it is gone: one line up is seen.
        model.extent = Extent { page: 5, last: 3 };
        model.act(Action::Scroll(Scroll::LineUp), now);
        assert_eq!(model.offset(Part::Requests), 2);
        // Another part has a place of its own.
        model.act(Action::Part(Turn::Next), now);
        model.act(Action::Scroll(Scroll::LineDown), now);
        assert_eq!(model.part, Part::Events);
        assert_eq!(
            (model.offset(Part::Events), model.offset(Part::Requests)),
            (1, 2)
        );
    }

    #[test]
    fn from_the_help_one_comes_back_before_one_leaves() {
        let mut model = samples::model();
        let now = Instant::now();
        assert_eq!(model.act(Action::Help, now), Effect::Nothing);
        assert!(model.is_help_shown);
        assert_eq!(model.act(Action::Quit, now), Effect::Nothing);
        assert!(!model.is_help_shown);
        model.act(Action::Help, now);
        assert_eq!(model.act(Action::QuitAtOnce, now), Effect::Quit);
        model.act(Action::Help, now);
        assert_eq!(model.act(Action::Quit, now), Effect::Quit);
        assert_eq!(model.act(Action::Suspend, now), Effect::Suspend);
        assert_eq!(model.act(Action::Redraw, now), Effect::Redraw);
    }

    #[test]
    fn idle_clients_are_asked_for_when_they_are_wanted() {
        let mut model = samples::model();
        model.act(Action::Idle, Instant::now());
        assert!(model.wanted().which.idle);
        model.act(Action::Idle, Instant::now());
        assert!(!model.wanted().which.idle);
    }
}
