//! Which part of the view has which rows of the screen; pure.

use super::model::Part;

/// A title, a row, and a line that says how many more there are.
const ROWS_MIN: usize = 3;

/// How much each part has of what is left when all have the least: requests are what one looks at, and where one begins.
/// Another part that is chosen to be scrolled counts [`CHOSEN`] times as much.
fn weight(part: Part, chosen: Part) -> usize {
    match part {
        Part::Requests => 3,
        Part::Routes | Part::Endpoints if part == chosen => 2 * CHOSEN,
        Part::Routes | Part::Endpoints => 2,
        Part::Events if part == chosen => CHOSEN,
        Part::Events => 1,
    }
}

const CHOSEN: usize = 4;

/// In which order parts get the least, where there is not enough for all.
const BY_IMPORTANCE: [Part; 4] = [Part::Requests, Part::Routes, Part::Endpoints, Part::Events];

/// Rows for each part, in the order of [`Part::ALL`]; none for one that there is no room for. A part `needs` its title
/// and all of its rows, or nothing if it is not to be shown.
pub(super) fn allot(rows: usize, needs: [usize; Part::ALL.len()], chosen: Part) -> [usize; 4] {
    let mut given = [0; Part::ALL.len()];
    let mut left = rows;
    let chosen_first = [chosen].into_iter().chain(BY_IMPORTANCE);
    for at in chosen_first.map(place) {
        let least = needs[at].min(ROWS_MIN);
        // One row would be a title alone. The first part has what there is.
        let is_first = given.iter().all(|rows| *rows == 0);
        if given[at] == 0 && (least <= left || is_first && left > 1) {
            given[at] = least.min(left);
            left -= given[at];
        }
    }
    while left > 0 {
        let hungry = Part::ALL.into_iter().filter(|part| {
            let at = place(*part);
            given[at] > 0 && given[at] < needs[at]
        });
        // By what they have for their weight: compared as products, which need no fractions.
        let share = |part: &Part| given[place(*part)] * ALL_WEIGHTS / weight(*part, chosen);
        let Some(next) = hungry.min_by_key(share) else {
            break;
        };
        given[place(next)] += 1;
        left -= 1;
    }
    given
}

/// What all weights divide.
const ALL_WEIGHTS: usize = 2 * 3 * CHOSEN;

fn place(part: Part) -> usize {
    let at = Part::ALL.iter().position(|it| *it == part);
    at.expect("every part is listed")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// In the order of `Part::ALL`: requests, events, routes, endpoints.
    #[test]
    fn all_have_what_they_need_where_there_is_room() {
        assert_eq!(allot(100, [10, 5, 3, 6], Part::Requests), [10, 5, 3, 6]);
        assert_eq!(allot(24, [10, 5, 3, 6], Part::Requests), [10, 5, 3, 6]);
    }

    #[test]
    fn requests_have_most_of_what_there_is() {
        let given = allot(20, [100, 65, 3, 5], Part::Requests);
        assert_eq!(given.iter().sum::<usize>(), 20);
        assert_eq!(given[2], 3);
        assert!(given[0] > given[1] && given[0] > given[3], "{given:?}");
    }

    #[test]
    fn what_is_scrolled_has_more() {
        let before = allot(20, [100, 65, 3, 5], Part::Requests);
        let after = allot(20, [100, 65, 3, 5], Part::Events);
        assert!(after[1] > before[1] && after[1] > after[0], "{after:?}");
    }

    #[test]
    fn a_part_without_room_is_left_out_whole() {
        assert_eq!(allot(3, [9, 9, 3, 9], Part::Requests), [3, 0, 0, 0]);
        assert_eq!(allot(5, [9, 9, 2, 9], Part::Requests), [3, 0, 2, 0]);
        assert_eq!(allot(2, [9, 9, 3, 9], Part::Requests), [2, 0, 0, 0]);
        assert_eq!(allot(1, [9, 9, 3, 9], Part::Requests), [0, 0, 0, 0]);
        assert_eq!(allot(3, [9, 9, 3, 9], Part::Events), [0, 3, 0, 0]);
    }

    proptest! {
        #[test]
        fn nobody_has_more_than_there_is_or_than_it_needs(
            rows in 0_usize..200, needs: [u8; 4], chosen in 0_usize..4,
        ) {
            let needs = needs.map(usize::from);
            let given = allot(rows, needs, Part::ALL[chosen]);
            prop_assert!(given.iter().sum::<usize>() <= rows);
            for (given, need) in given.iter().zip(needs) {
                prop_assert!(*given <= need && (*given != 1 || need == 1));
            }
            // Nothing is left unused that somebody could have who is shown.
            let left = rows - given.iter().sum::<usize>();
            let is_hungry = given.iter().zip(needs).any(|(g, n)| *g > 0 && *g < n);
            prop_assert!(left == 0 || !is_hungry);
        }
    }
}
