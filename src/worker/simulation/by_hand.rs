//! Operators change something by hand while others of the kinds run.

use super::*;

pub(super) fn run(mut dice: Dice, engine: SimEngine, trace: bool, keep: &mut Option<Sim>) {
    let several = match engine {
        SimEngine::Completions => {
            dice.pick(&[None, None, Some(Backends::Routes), Some(Backends::Workers)])
        }
        SimEngine::Epoll => None,
    };
    match several {
        Some(backends) => several::run(dice, (backends, true), trace, keep),
        None => {
            let kinds = [
                Backends::Tcp,
                Backends::Limited,
                Backends::Fastcgi,
                Backends::Fastcgi,
            ];
            let backends = dice.pick(&kinds);
            run_one(dice, (engine, backends), (true, trace), keep);
        }
    }
}
