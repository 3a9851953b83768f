//! What is written down about a message names no person; what a case is called can't break a mail.

use std::io::Write;
use std::sync::{Arc, Mutex};

use causelist_testkit::smtp::{At, Reaction};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;

use crate::fixture::{Post, reminder, reserve};

/// All that is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_personal_data_in_errors_logs_metrics_or_jobs() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _metering = metrics::set_default_local_recorder(&recorder);

    let post = Post::new().await;
    let mut data = reminder();
    for field in ["caseNumber", "caseTitle", "courtName", "clientName", "recipientName"] {
        data[field] = json!("Canary Kumar");
    }
    let chatty = "canary.kumar@x.example mailbox of Canary Kumar: Hearing Reminder: Canary Kumar";
    let reactions = [
        Reaction::answer(At::RcptTo, &format!("550 5.1.1 <canary.kumar@x.example> {chatty}")),
        Reaction::answer(At::RcptTo, &format!("450 {chatty}")),
        Reaction::answer(At::Data, &format!("554 {chatty}")),
        Reaction::answer(At::EndOfData, &format!("552-5.2.2 {chatty}\r\n552 5.2.2 {chatty}")),
        Reaction::answer(At::EndOfData, &format!("451 {chatty}")),
        Reaction::answer(At::EndOfData, chatty),
        Reaction::answer(At::RcptTo, chatty),
        Reaction::Drop(At::RcptTo),
        Reaction::Drop(At::Data),
        Reaction::Drop(At::InData),
        Reaction::Drop(At::EndOfData),
        Reaction::Accept,
    ];
    for (i, reaction) in reactions.into_iter().enumerate() {
        let address = format!("canary.kumar+{i}@x.example");
        post.server.script(&address, [reaction]);
        post.reserve_with(&address, data.clone()).await;
    }
    post.reserve_with("canary kumar", data.clone()).await;
    reserve(
        post.pool(),
        post.tenant,
        "escalation",
        Some("canary@x.example"),
        json!({"taskTitle": {"canary": 1}}),
    )
    .await;
    for _ in 0..10 {
        let _ = post.deliver().await;
    }
    assert!(
        post.rows().await.iter().all(|r| r.attempts > 0),
        "{:?}",
        post.rows().await
    );

    let stored: Vec<String> = sqlx::query_scalar(
        "select coalesce(m.error, '') || coalesce(m.provider_id, '') from causelist.message m
         union all select coalesce(a.error, '') || coalesce(a.result::text, '') from causelist.attempt a
         union all select j.args::text from causelist.job j",
    )
    .fetch_all(post.pool())
    .await
    .expect("can be read");
    assert!(stored.iter().any(|s| s.contains("550 5.1.1")), "{stored:?}");
    for text in stored {
        assert!(!text.to_lowercase().contains("canary"), "stored: {text}");
    }
    // sqlx logs statements, whose texts hold no values; nothing else may show any.
    let log = String::from_utf8(log.0.lock().expect("not poisoned").clone()).expect("is text");
    assert!(
        !log.is_empty() && !log.to_lowercase().contains("canary"),
        "logged: {log}"
    );

    let shown = metrics.render();
    for outcome in ["accepted", "rejected", "postponed", "unknown"] {
        let line = format!("causelist_notifications_total{{channel=\"email\",outcome=\"{outcome}\"}}");
        assert!(shown.contains(&line), "{line} in\n{shown}");
    }
    assert!(
        !shown.contains("canary") && !shown.contains(&post.tenant.to_string()),
        "{shown}"
    );
}

#[tokio::test]
async fn a_title_injects_neither_header_nor_markup_nor_a_second_message() {
    let post = Post::new().await;
    let mut data = reminder();
    data["caseNumber"] = json!("GST/1\r\nBcc: all@y.example\r\n\r\n<html>");
    data["courtName"] = json!("Court\r\n.\r\nMAIL FROM:<x@y.example>\r\n");
    data["caseTitle"] = json!("<img src=x onerror=alert(1)>\n.\nRCPT TO:<z@y.example>\n--boundary");
    data["clientName"] = json!(".");
    data["recipientName"] = json!("=?utf-8?q?Bcc:_a=40y.example?=\r\nBcc: b@y.example");
    post.reserve_with("a@x.example", data).await;
    assert_eq!(post.deliver().await.expect("ends well")["accepted"], 1);
    let received = post.server.received();
    assert_eq!(received.len(), 1);
    let (headers, body) = received[0].raw.split_once("\r\n\r\n").expect("headers and body");
    let names: Vec<&str> = headers
        .split("\r\n")
        .filter(|l| !l.starts_with(' '))
        .filter_map(|l| l.split(':').next())
        .collect();
    assert_eq!(
        names,
        [
            "From",
            "To",
            "Subject",
            "Date",
            "Message-ID",
            "Auto-Submitted",
            "MIME-Version",
            "Content-Type"
        ]
    );
    assert_eq!(body.matches("Content-Type:").count(), 2, "{body}");
    let html = body
        .split("Content-Type: text/html")
        .nth(1)
        .expect("has an HTML part")
        .replace("=\r\n", "");
    assert!(
        !html.contains("<img") && html.contains("&lt;img src=3Dx onerror"),
        "{html}"
    );
}
