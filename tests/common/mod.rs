//! What the integration tests share: a proxy that a test starts with a builder, scripted TCP
//! backends, content that betrays loss or reordering, and waiting on conditions.
//!
//! The rules of this folder: nothing sleeps except [`wait::pause`]; every wait has [`wait::GUARD`] as
//! its end, so that a hang becomes a failure; every child process dies with its test.

// Each test binary compiles this module and uses its own part of it.
#![allow(dead_code, unused_imports, unused_macros)]

pub(crate) mod activation;
pub(crate) mod backend;
pub(crate) mod beside;
pub(crate) mod chromium;
pub(crate) mod client;
pub(crate) mod containers;
pub(crate) mod fastcgi;
pub(crate) mod http;
pub(crate) mod name_server;
pub(crate) mod pattern;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod proxy;
pub(crate) mod random;
pub(crate) mod sys;
pub(crate) mod wait;

pub(crate) use backend::{Backend, Conversation, Ending};
pub(crate) use name_server::NameServer;
pub(crate) use pattern::Pattern;
pub(crate) use process::Process;
pub(crate) use proxy::{Engine, Proxy};
pub(crate) use random::Random;
pub(crate) use wait::{GUARD, eventually, uninterrupted};

/// The program. cargo names it to the tests of its own package only; those of the harness, which share this
/// folder, start no proxy of their own.
pub(crate) const SPLICEWAY: &str = match option_env!("CARGO_BIN_EXE_spliceway") {
    Some(path) => path,
    None => "not the program's own tests",
};

pub(crate) const KB: u64 = 1 << 10;
pub(crate) const MB: u64 = 1 << 20;

/// Makes two tests of each named function, `name::io_uring` and `name::epoll`. A function that is
/// left out of the list is dead code, which the lints refuse.
macro_rules! for_each_engine {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            #[test]
            fn io_uring() {
                $crate::common::sys::as_permitted(|| super::$name($crate::common::Engine::IoUring));
            }

            #[test]
            fn epoll() {
                $crate::common::sys::as_permitted(|| super::$name($crate::common::Engine::Epoll));
            }
        })+
    };
}
pub(crate) use for_each_engine;
