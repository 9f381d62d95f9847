//! What keys mean; pure.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The end; from the help, back.
    Quit,
    /// The end, wherever one is.
    QuitAtOnce,
    /// The shell, for a while.
    Suspend,
    /// Everything drawn anew: something else has written to the terminal.
    Redraw,
    /// The next order of requests, or the one before.
    Sort(Turn),
    /// The next route, or the one before, or all.
    Route(Turn),
    /// Nothing new until it is pressed again.
    Pause,
    /// Clients without a request, or none of them.
    Idle,
    /// What is scrolled.
    Part(Turn),
    /// By so much.
    Scroll(Scroll),
    /// What the keys do.
    Help,
}

/// Which way through a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Next,
    Previous,
}

/// How far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scroll {
    LineUp,
    LineDown,
    PageUp,
    PageDown,
    First,
    Last,
}

impl Turn {
    /// The one beside number `at` of `count`.
    pub(super) fn of(self, at: usize, count: usize) -> usize {
        assert!(at < count, "{at} is one of {count}");
        match self {
            Self::Next => (at + 1) % count,
            Self::Previous => (at + count - 1) % count,
        }
    }
}

/// What a key is for, if it is for anything.
pub(super) fn action(key: KeyEvent) -> Option<Action> {
    // Only some terminals tell of it, and only if they are asked to.
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.modifiers {
        KeyModifiers::CONTROL => with_control(key.code),
        // A capital letter comes with its shift on some terminals, and without on others.
        modifiers if (modifiers - KeyModifiers::SHIFT).is_empty() => alone(key.code),
        _ => None,
    }
}

fn with_control(code: KeyCode) -> Option<Action> {
    Some(match code {
        KeyCode::Char('c' | '\\') => Action::QuitAtOnce,
        // Some terminals' Ctrl-\.
        KeyCode::Char('4') => Action::QuitAtOnce,
        KeyCode::Char('z') => Action::Suspend,
        KeyCode::Char('l') => Action::Redraw,
        _ => return None,
    })
}

fn alone(code: KeyCode) -> Option<Action> {
    Some(match code {
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => Action::Quit,
        KeyCode::Char('s') => Action::Sort(Turn::Next),
        KeyCode::Char('S') => Action::Sort(Turn::Previous),
        KeyCode::Char('r') => Action::Route(Turn::Next),
        KeyCode::Char('R') => Action::Route(Turn::Previous),
        KeyCode::Char('p' | 'P' | ' ') => Action::Pause,
        KeyCode::Char('i' | 'I') => Action::Idle,
        KeyCode::Char('h' | 'H' | '?') => Action::Help,
        KeyCode::Tab => Action::Part(Turn::Next),
        KeyCode::BackTab => Action::Part(Turn::Previous),
        KeyCode::Up | KeyCode::Char('k') => Action::Scroll(Scroll::LineUp),
        KeyCode::Down | KeyCode::Char('j') => Action::Scroll(Scroll::LineDown),
        KeyCode::PageUp => Action::Scroll(Scroll::PageUp),
        KeyCode::PageDown => Action::Scroll(Scroll::PageDown),
        KeyCode::Home => Action::Scroll(Scroll::First),
        KeyCode::End => Action::Scroll(Scroll::Last),
        _ => return None,
    })
}

/// What there is to press, for people.
pub(super) const HELP: [(&str, &str); 11] = [
    ("q, Esc, Ctrl-C", "end"),
    ("s, S", "the next order of requests, the one before"),
    ("r, R", "the next route, the one before; then all of them"),
    (
        "p, space",
        "pause: nothing is asked for, and nothing changes",
    ),
    ("i", "clients without a request as well, or none of them"),
    (
        "Tab, Shift-Tab",
        "what is scrolled: requests, events, routes, endpoints",
    ),
    ("arrows, j, k", "scroll by a line"),
    ("PgUp, PgDn", "by what is shown; Home, End: all the way"),
    ("Ctrl-L", "draw everything anew"),
    ("Ctrl-Z", "back to the shell; 'fg' brings it back"),
    ("?, h", "this, and away again"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(code: KeyCode, modifiers: KeyModifiers) -> Option<Action> {
        action(KeyEvent::new(code, modifiers))
    }

    #[test]
    fn every_key_does_what_it_is_for() {
        use KeyCode::{BackTab, Char, Down, End, Esc, Home, PageDown, PageUp, Tab, Up};
        for (codes, wanted) in [
            (&[Char('q'), Esc][..], Action::Quit),
            (&[Char('s')], Action::Sort(Turn::Next)),
            (&[Char('S')], Action::Sort(Turn::Previous)),
            (&[Char('r')], Action::Route(Turn::Next)),
            (&[Char('R')], Action::Route(Turn::Previous)),
            (&[Char('p'), Char(' ')], Action::Pause),
            (&[Char('i')], Action::Idle),
            (&[Char('?'), Char('h')], Action::Help),
            (&[Tab], Action::Part(Turn::Next)),
            (&[BackTab], Action::Part(Turn::Previous)),
            (&[Up, Char('k')], Action::Scroll(Scroll::LineUp)),
            (&[Down, Char('j')], Action::Scroll(Scroll::LineDown)),
            (&[PageUp], Action::Scroll(Scroll::PageUp)),
            (&[PageDown], Action::Scroll(Scroll::PageDown)),
            (&[Home], Action::Scroll(Scroll::First)),
            (&[End], Action::Scroll(Scroll::Last)),
        ] {
            for &code in codes {
                for modifiers in [KeyModifiers::NONE, KeyModifiers::SHIFT] {
                    assert_eq!(pressed(code, modifiers), Some(wanted), "{code:?}");
                }
                assert_eq!(pressed(code, KeyModifiers::ALT), None, "{code:?}");
            }
        }
    }

    #[test]
    fn control_is_for_what_terminals_do_themselves_otherwise() {
        for (letter, wanted) in [
            ('c', Some(Action::QuitAtOnce)),
            ('\\', Some(Action::QuitAtOnce)),
            ('z', Some(Action::Suspend)),
            ('l', Some(Action::Redraw)),
            ('s', None),
            ('q', None),
        ] {
            let done = pressed(KeyCode::Char(letter), KeyModifiers::CONTROL);
            assert_eq!(done, wanted, "Ctrl-{letter}");
        }
    }

    #[test]
    fn a_key_that_is_let_go_does_nothing() {
        let mut key = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
        key.kind = KeyEventKind::Release;
        assert_eq!(action(key), None);
    }

    #[test]
    fn a_ring_has_no_end() {
        assert_eq!(Turn::Next.of(2, 3), 0);
        assert_eq!(Turn::Previous.of(0, 3), 2);
        assert_eq!(Turn::Next.of(0, 1), 0);
        assert_eq!(Turn::Previous.of(0, 1), 0);
    }
}
