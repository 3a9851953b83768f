//! The test database itself.

use causelist_testkit::TestDb;
use sqlx::{Connection, PgConnection, query, query_scalar};

#[tokio::test]
async fn it_has_the_schema_as_the_queue_knows_it() {
    let db = TestDb::new().await;
    let mut inside = db.pool().acquire().await.unwrap();
    assert_eq!(causelist_queue::pending(&mut inside).await.unwrap(), []);
    causelist_queue::migrate(db.pool()).await.unwrap();
}

#[tokio::test]
async fn tests_do_not_see_each_other() {
    let (one, two) = tokio::join!(TestDb::new(), TestDb::new());
    query("insert into causelist.queue (name) values ('own')")
        .execute(one.pool())
        .await
        .unwrap();
    let count = "select count(*) from causelist.queue where name = 'own'";
    assert_eq!(query_scalar::<_, i64>(count).fetch_one(one.pool()).await.unwrap(), 1);
    assert_eq!(query_scalar::<_, i64>(count).fetch_one(two.pool()).await.unwrap(), 0);
}

#[tokio::test]
async fn own_sql_is_part_of_the_template() {
    let sql = "create table public.own (n int); insert into public.own values (1), (2); select 1";
    for _ in 0..2 {
        let db = TestDb::with_sql(sql).await;
        let sum: i64 = query_scalar("delete from public.own returning 1::bigint")
            .fetch_all(db.pool())
            .await
            .unwrap()
            .iter()
            .sum();
        assert_eq!(sum, 2);
    }
}

#[tokio::test]
async fn it_is_dropped_even_while_in_use() {
    let db = TestDb::empty().await;
    let (name, url) = (db.name().to_owned(), db.url().to_owned());
    let held = db.pool().acquire().await.unwrap();
    drop(db);
    drop(held);
    // The drop may go on for a while on a busy server.
    let error = loop {
        if let Err(error) = PgConnection::connect(&url).await {
            break error.to_string();
        }
    };
    assert!(error.contains(&name) && error.contains("does not exist"), "{error}");
}
