//! Which names are meant by one that is not fully qualified, and how a search for it ends.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;

use super::outcome::{Cause, Failure, LookupOutcome};
use super::reply::Reply;
use super::resolv_conf::Domain;

/// The search domains and when they come first (resolv.conf(5), `search` and `ndots`).
pub(super) struct Search {
    pub(super) domains: Vec<Domain>,
    pub(super) ndots: usize,
    pub(super) no_tld_query: bool,
}

/// A fully qualified name that is meant by one that is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// `None`: with this search domain it is no name.
    name: Option<Name>,
    /// It is the name as it was given.
    is_as_given: bool,
}

/// How far a search has come.
///
/// As with the C library: after silence, or a word in `search` that makes no name, no other domain is
/// tried (its answer would be another name's), but the name itself is; a server that reports a failure
/// ends nothing. Neither may turn into "there is no such name" at the end.
#[derive(Default)]
pub(super) struct Searched {
    unanswered: Option<Cause>,
    /// Search domains are not tried any more.
    only_as_given: bool,
}

impl Searched {
    /// What is to be asked for this candidate, if it is to be tried.
    pub(super) fn next<'a>(&mut self, candidate: &'a Candidate) -> Option<&'a Name> {
        if self.only_as_given && !candidate.is_as_given {
            return None;
        }
        self.only_as_given = !candidate.is_as_given && candidate.name.is_none();
        if candidate.name.is_none() {
            self.unanswered.get_or_insert(Cause::NoName);
        }
        candidate.name.as_ref()
    }

    /// What one candidate brought. `Some`: the search is over.
    pub(super) fn take<T>(
        &mut self,
        candidate: &Candidate,
        reply: Reply<T>,
    ) -> Option<LookupOutcome<T>> {
        let cause = match reply {
            Reply::Found(found) => return Some(Ok(found)),
            Reply::NoData => return Some(Err(Failure::Nothing)),
            Reply::NoSuchName => return None,
            Reply::NoAnswer(cause) => cause,
        };
        match cause {
            Cause::ServerFailure(ResponseCode::ServFail) | Cause::Referral => {}
            // What comes is not about this name any more.
            Cause::Unusable | Cause::NoNameServer | Cause::NoAttempts | Cause::Other(_) => {
                return Some(Err(Failure::NoAnswer(cause)));
            }
            Cause::Silence
            | Cause::ServerFailure(_)
            | Cause::Lame
            | Cause::LongChain
            | Cause::NoName => {
                self.only_as_given = !candidate.is_as_given;
            }
        }
        self.unanswered.get_or_insert(cause);
        None
    }

    /// No candidate was the one.
    pub(super) fn end<T>(self) -> LookupOutcome<T> {
        Err(self.unanswered.map_or(Failure::Nothing, Failure::NoAnswer))
    }
}

impl Search {
    /// The fully qualified names that `name` may mean, in the order in which they are tried.
    pub(super) fn candidates(&self, name: &Name) -> Vec<Candidate> {
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        let as_given = Candidate {
            name: Some(absolute),
            is_as_given: true,
        };
        if name.is_fqdn() {
            return vec![as_given];
        }
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let comes_first = dots >= self.ndots;
        let mut candidates: Vec<_> = comes_first.then(|| as_given.clone()).into_iter().collect();
        let mut asks_for_given = comes_first || (dots == 0 && self.no_tld_query);
        for domain in &self.domains {
            let name = match domain {
                Domain::Name(domain) => name.clone().append_domain(domain).ok(),
                Domain::NoName => None,
            };
            // The root as a search domain: it is tried in this place, and not again.
            asks_for_given |= name == as_given.name;
            let is_known = candidates.iter().any(|known| known.name == name);
            if name.is_none() || !is_known {
                candidates.push(Candidate {
                    name,
                    is_as_given: false,
                });
            }
        }
        if !asks_for_given || candidates.is_empty() {
            candidates.push(as_given);
        }
        candidates
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        Name::from_ascii(name).unwrap()
    }

    fn search(domains: &[&str], ndots: usize) -> Search {
        Search {
            domains: domains
                .iter()
                .map(|domain| Domain::Name(name(&format!("{}.", domain.trim_end_matches('.')))))
                .collect(),
            ndots,
            no_tld_query: false,
        }
    }

    /// What a name is tried as; `-` is no name.
    pub(in super::super) fn candidates(search: &Search, of: &str) -> Vec<String> {
        let candidates = search.candidates(&name(of));
        let name = |candidate: &Candidate| match &candidate.name {
            Some(name) => name.to_string(),
            None => "-".to_owned(),
        };
        candidates.iter().map(name).collect()
    }

    #[test]
    fn a_trailing_dot_turns_the_search_off() {
        let search = search(&["web.svc.cluster.local", "cluster.local"], 5);
        assert_eq!(candidates(&search, "php.internal."), ["php.internal."]);
    }

    #[test]
    fn a_name_with_few_dots_is_searched_first() {
        let search = search(&["web.svc.cluster.local", "cluster.local"], 5);
        assert_eq!(
            candidates(&search, "php"),
            ["php.web.svc.cluster.local.", "php.cluster.local.", "php."]
        );
    }

    #[test]
    fn a_name_with_enough_dots_comes_first_as_it_is() {
        let search = search(&["example.com"], 1);
        assert_eq!(
            candidates(&search, "php.internal"),
            ["php.internal.", "php.internal.example.com."]
        );
    }

    #[test]
    fn the_root_as_a_search_domain_asks_nothing_twice() {
        assert_eq!(candidates(&search(&["."], 1), "php"), ["php."]);
    }

    #[test]
    fn a_name_that_is_too_long_for_a_search_domain_is_none_there() {
        let long = ["a".repeat(60).as_str(); 4].join(".");
        let search = search(&["example.com"], 5);
        assert_eq!(
            candidates(&search, &long),
            ["-".to_owned(), format!("{long}.")]
        );
    }
}
