//! Many messages, every kind of answer: in the end the ledger says what the server saw.

use std::collections::HashMap;

use causelist_core::JobError;
use causelist_testkit::smtp::{At, Options, Reaction};

use crate::fixture::{Post, reminder};

const MESSAGES: usize = 1000;

/// Every kind of answer, mixed in a fixed pattern.
fn reactions(i: usize) -> Vec<Reaction> {
    let later = |at| Reaction::answer(at, "451 4.3.0 later");
    let never = |at| Reaction::answer(at, "550 5.1.1 no");
    match i % 23 {
        3 => vec![later(At::RcptTo)],
        5 => vec![later(At::EndOfData), later(At::EndOfData)],
        7 => vec![later(At::RcptTo), never(At::EndOfData)],
        9 => vec![never(At::RcptTo)],
        11 => vec![never(At::EndOfData)],
        13 => vec![Reaction::Drop(At::EndOfData)],
        15 => vec![later(At::Data), Reaction::Drop(At::EndOfData)],
        17 => vec![Reaction::Drop(At::RcptTo)],
        19 => vec![Reaction::Drop(At::Data)],
        21 => vec![Reaction::answer(At::EndOfData, "421 4.3.2 closing")],
        _ => vec![],
    }
}

#[tokio::test]
async fn a_thousand_messages_end_as_the_server_saw_them() {
    let post = Post::with(Options {
        messages_per_connection: Some(50),
        ..Options::default()
    })
    .await;
    let addresses: Vec<String> = (0..MESSAGES).map(|i| format!("m{i}@x.example")).collect();
    for (i, address) in addresses.iter().enumerate() {
        post.server.script(address, reactions(i));
    }
    sqlx::query(
        "insert into causelist.message (tenant, template, entity_type, entity_id, occasion, recipient, channel,
                                        address, data)
         select $1, 'hearing-reminder', 'hearing', gen_random_uuid(), 'T-1', 'user:' || gen_random_uuid(), 'email', a, $3
         from unnest($2::text[]) a",
    )
    .bind(post.tenant)
    .bind(&addresses)
    .bind(reminder())
    .execute(post.pool())
    .await
    .expect("messages can be reserved");

    let mut runs = 0;
    loop {
        runs += 1;
        assert!(runs < 100, "it does not come to an end");
        match post.deliver().await {
            Ok(_) => break,
            Err(JobError::Snooze(..)) => post.make_due().await,
            Err(other) => panic!("{other}"),
        }
    }

    let mut counts: HashMap<String, usize> = HashMap::new();
    let received = post.server.received();
    for (i, row) in post.rows().await.into_iter().enumerate() {
        let address = row.address.expect("has an address");
        let answers: Vec<Option<u16>> = received.iter().filter(|m| m.to == address).map(|m| m.answer).collect();
        let truth = match answers.last() {
            Some(Some(250)) => "accepted",
            Some(None) => "unknown",
            // Refused at the end of the data or, the last time, before it.
            Some(Some(_)) | None => "rejected",
        };
        assert_eq!(row.state, truth, "{address}, script {}: {answers:?}", i % 23);
        let sent = answers.iter().filter(|a| a.is_none_or(|code| code < 300)).count();
        assert_eq!(sent, usize::from(truth != "rejected"), "{address}: {answers:?}");
        *counts.entry(row.state).or_default() += 1;
    }
    let of = |kinds: &[usize]| (0..MESSAGES).filter(|i| kinds.contains(&(i % 23))).count();
    assert_eq!(counts["rejected"], of(&[7, 9, 11]));
    assert_eq!(counts["unknown"], of(&[13, 15]));
    assert_eq!(counts.values().sum::<usize>(), MESSAGES);
}
