use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::*;

#[derive(Debug, PartialEq, Eq)]
struct Letter {
    number: u32,
    ends: Vec<End>,
}

impl Message for Letter {
    fn ends(&self) -> impl Iterator<Item = End> {
        self.ends.iter().copied()
    }
}

type Post = Channels<Letter, u32, u32, 4, 4>;

fn letter(number: u32) -> Letter {
    Letter { number, ends: Vec::new() }
}

/// Sends into the queue.
fn send(post: &mut Post, from: End, letter: Letter) -> Result<(), ChannelError> {
    let ends = letter.ends.clone();
    match post.begin(from, &ends, true)? {
        Target::Queue => post.push(from, letter).map_err(|(_, error)| error),
        Target::Waiting(..) => panic!("nobody waits"),
    }
}

fn receive(post: &mut Post, end: End) -> Result<Option<Letter>, ChannelError> {
    Ok(match post.receive(end, |_| true)? {
        Received::Message(letter) => {
            post.done(end, &letter);
            Some(letter)
        }
        Received::Unwanted => panic!("everything is wanted"),
        Received::Nothing => None,
    })
}

#[test]
fn messages_come_in_order_up_to_the_bound() {
    let mut post = Post::new();
    let [one, two] = post.open().unwrap();
    for round in 0..3 {
        for number in 0..QUEUE_LENGTH as u32 {
            assert_eq!(send(&mut post, one, letter(100 * round + number)), Ok(()));
        }
        assert_eq!(send(&mut post, one, letter(999)), Err(ChannelError::QueueFull));
        assert_eq!(send(&mut post, two, letter(7)), Ok(()), "the other way there is room");
        assert_eq!(receive(&mut post, one), Ok(Some(letter(7))));
        for number in 0..QUEUE_LENGTH as u32 {
            assert_eq!(receive(&mut post, two), Ok(Some(letter(100 * round + number))));
        }
        assert_eq!(receive(&mut post, two), Ok(None));
    }
}

#[test]
fn a_place_that_is_kept_counts() {
    let mut post = Post::new();
    let [one, two] = post.open().unwrap();
    for number in 0..QUEUE_LENGTH as u32 - 1 {
        assert_eq!(send(&mut post, one, letter(number)), Ok(()));
    }
    assert_eq!(post.begin(one, &[], true), Ok(Target::Queue));
    assert_eq!(post.begin(one, &[], true), Err(ChannelError::QueueFull));
    post.give_up(one);
    assert_eq!(post.begin(one, &[], true), Ok(Target::Queue));
    assert_eq!(post.push(one, letter(15)), Ok(()));
    // One that was taken out may come back, so nothing takes its place meanwhile.
    let Ok(Received::Message(first)) = post.receive(two, |_| true) else { panic!() };
    assert_eq!(post.begin(one, &[], true), Err(ChannelError::QueueFull));
    assert_eq!(post.put_back(two, first), Ok(()));
    assert_eq!(post.receive(two, |first| first.number != 0), Ok(Received::Unwanted));
    assert_eq!(receive(&mut post, two), Ok(Some(letter(0))));
    assert_eq!(receive(&mut post, two), Ok(Some(letter(1))));
}

#[test]
fn who_waits_is_served_before_the_queue_is_used() {
    let mut post = Post::new();
    let [one, two] = post.open().unwrap();
    let ticket = post.waits.wait(two, 5).unwrap();
    assert_eq!(post.begin(one, &[], true), Ok(Target::Waiting(ticket, 5)));
    assert_eq!(post.begin(one, &[], true), Ok(Target::Queue), "the one that waits is claimed");
    assert_eq!(post.push(one, letter(2)), Ok(()));
    assert!(post.waits.finish(ticket, 1) && post.waits.wait(two, 6).is_ok());
    assert_eq!(post.begin(one, &[], true), Ok(Target::Queue), "no message overtakes another one");
    assert_eq!(post.push(one, letter(3)), Ok(()));
    assert_eq!([2, 3].map(|_| receive(&mut post, two)), [2, 3].map(|number| Ok(Some(letter(number)))));
    assert_eq!(post.begin(one, &[], false), Ok(Target::Queue), "not if it is not wanted so");
    assert!(matches!(post.begin(one, &[], true), Ok(Target::Waiting(_, 6))));
}

#[test]
fn what_was_sent_before_the_end_was_closed_is_received() {
    let mut post = Post::new();
    let [one, two] = post.open().unwrap();
    assert_eq!(send(&mut post, one, letter(1)), Ok(()));
    assert!(post.drop_handle(one));
    assert_eq!(send(&mut post, two, letter(2)), Err(ChannelError::Closed));
    assert_eq!(receive(&mut post, two), Ok(Some(letter(1))));
    assert_eq!(receive(&mut post, two), Err(ChannelError::Closed));
    assert!(post.drop_handle(two) && post.is_empty());
    let [new, _] = post.open().unwrap();
    assert_eq!(receive(&mut post, one), Err(ChannelError::Closed), "an old end is not a new one");
    assert_eq!(receive(&mut post, new), Ok(None));
}

#[test]
fn an_end_closed_while_a_message_is_made_gives_it_back() {
    let mut post = Post::new();
    let [one, two] = post.open().unwrap();
    assert_eq!(post.begin(one, &[], true), Ok(Target::Queue));
    assert!(post.drop_handle(two));
    assert_eq!(post.push(one, letter(1)), Err((letter(1), ChannelError::Closed)));
    assert!(post.drop_handle(one) && post.is_empty());
}

#[test]
fn channels_are_bounded() {
    let mut post = Post::new();
    let ends: Vec<_> = (0..4).map(|_| post.open().unwrap()).collect();
    assert_eq!(post.open(), None);
    assert!(post.drop_handle(ends[2][0]) && post.open().is_none() && post.drop_handle(ends[2][1]));
    assert!(post.open().is_some());
}

#[test]
fn an_end_is_never_on_its_way_to_itself() {
    let mut post = Post::new();
    let [one, two] = post.open().unwrap();
    let [three, four] = post.open().unwrap();
    let carry = |post: &mut Post, from, end| send(post, from, Letter { number: 0, ends: vec![end] });
    assert_eq!(carry(&mut post, one, two), Err(ChannelError::OnItsWay), "into its own queue");
    assert_eq!(carry(&mut post, one, three), Ok(()), "three is on its way to two");
    assert_eq!(carry(&mut post, four, two), Err(ChannelError::OnItsWay), "two round the corner to itself");
    assert_eq!(carry(&mut post, four, one), Err(ChannelError::OnItsWay), "an end that is on its way takes none");
    assert_eq!(send(&mut post, four, letter(9)), Ok(()), "but plain messages");
    assert_eq!(receive(&mut post, two).map(|got| got.map(|letter| letter.ends)), Ok(Some(vec![three])));
    assert_eq!(carry(&mut post, four, two), Ok(()), "three has arrived");
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    /// Sends from an end what carries these, by their places among the handles that are held.
    Send(usize, Vec<usize>),
    Receive(usize),
    /// Takes a message out and puts it back.
    Return(usize),
    Duplicate(usize),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let which = || 0_usize..16;
    prop_oneof![
        1 => Just(Step::Open),
        6 => (which(), prop::collection::vec(which(), 0..3)).prop_map(|(from, ends)| Step::Send(from, ends)),
        3 => which().prop_map(Step::Receive),
        1 => which().prop_map(Step::Return),
        1 => which().prop_map(Step::Duplicate),
        2 => which().prop_map(Step::Drop),
    ]
}

/// Drops handles, and what is in the queues that nobody can receive from any more, to the end.
fn drop_handles(post: &mut Post, handles: Vec<End>, queues: &mut HashMap<End, VecDeque<(u32, Vec<End>)>>) {
    let mut left = handles;
    let mut depth = 0;
    while !left.is_empty() {
        depth += 1;
        assert!(depth <= 3, "messages lead to messages once at the most");
        let mut next = Vec::new();
        for end in left {
            if post.drop_handle(end) {
                while let Some(letter) = post.take_orphan(end) {
                    let expected = queues.get_mut(&end).and_then(VecDeque::pop_front);
                    assert_eq!(Some((letter.number, letter.ends.clone())), expected);
                    next.extend(letter.ends);
                }
                queues.remove(&end);
            }
        }
        left = next;
    }
}

proptest! {
    /// Whatever is sent where: messages arrive once, in order; and when every handle is dropped nothing is left.
    #[test]
    fn nothing_is_lost_or_left(steps in prop::collection::vec(step(), 0..80)) {
        let mut post = Post::new();
        // The handles that are held outside of messages.
        let mut held: Vec<End> = Vec::new();
        let mut queues: HashMap<End, VecDeque<(u32, Vec<End>)>> = HashMap::new();
        for (number, step) in (0_u32..).zip(steps) {
            let at = |held: &Vec<End>, which: usize| (!held.is_empty()).then(|| held[which % held.len()]);
            match step {
                Step::Open => if let Some(ends) = post.open() {
                    held.extend(ends);
                    for end in ends {
                        prop_assert!(queues.insert(end, VecDeque::new()).is_none());
                    }
                },
                Step::Send(from, which) => {
                    let Some(from) = at(&held, from) else { continue };
                    let places: HashSet<usize> = which.iter().map(|which| which % held.len()).collect();
                    let ends: Vec<End> = places.iter().map(|place| held[*place]).collect();
                    let to = from.other();
                    let on_way: HashSet<End> = queues.values().flatten().flat_map(|(_, ends)| ends.clone()).collect();
                    let awaits = |end: &End| queues.get(end).is_some_and(|queue| queue.iter().any(|(_, ends)| !ends.is_empty()));
                    let expected = if !queues.contains_key(&to) {
                        Err(ChannelError::Closed)
                    } else if !ends.is_empty() && (on_way.contains(&to) || ends.contains(&to) || ends.iter().any(awaits)) {
                        Err(ChannelError::OnItsWay)
                    } else if queues[&to].len() == QUEUE_LENGTH {
                        Err(ChannelError::QueueFull)
                    } else {
                        Ok(())
                    };
                    prop_assert_eq!(send(&mut post, from, Letter { number, ends: ends.clone() }), expected);
                    if expected.is_ok() {
                        let mut places: Vec<usize> = places.into_iter().collect();
                        places.sort_unstable();
                        places.iter().rev().for_each(|place| { held.swap_remove(*place); });
                        queues.get_mut(&to).unwrap().push_back((number, ends));
                    }
                }
                Step::Receive(end) | Step::Return(end) => {
                    let Some(end) = at(&held, end) else { continue };
                    let back = matches!(step, Step::Return(_));
                    let open = queues.contains_key(&end.other());
                    match post.receive(end, |_| true) {
                        Ok(Received::Message(letter)) => {
                            let queue = queues.get_mut(&end).unwrap();
                            let expected = queue.front().cloned();
                            prop_assert_eq!(Some((letter.number, letter.ends.clone())), expected);
                            if back {
                                prop_assert_eq!(post.put_back(end, letter), Ok(()));
                            } else {
                                post.done(end, &letter);
                                queue.pop_front();
                                held.extend(letter.ends);
                            }
                        }
                        Ok(Received::Nothing) => prop_assert!(open && queues[&end].is_empty()),
                        Ok(Received::Unwanted) => prop_assert!(false),
                        Err(error) => prop_assert!(error == ChannelError::Closed && !open && queues[&end].is_empty()),
                    }
                }
                Step::Duplicate(end) => if let Some(end) = at(&held, end) {
                    post.add_handle(end);
                    held.push(end);
                },
                Step::Drop(which) => if !held.is_empty() {
                    let end = held.swap_remove(which % held.len());
                    drop_handles(&mut post, vec![end], &mut queues);
                },
            }
            let live: HashSet<u16> = queues.keys().map(|end| end.channel).collect();
            prop_assert_eq!(post.len(), live.len());
        }
        drop_handles(&mut post, held, &mut queues);
        prop_assert!(post.is_empty() && queues.is_empty());
    }
}
