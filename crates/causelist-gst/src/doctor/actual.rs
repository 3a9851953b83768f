//! What the host's tables are like in fact, from the catalog, which every role may read.

use std::collections::HashMap;

use sqlx::{FromRow, PgConnection};

use super::uses::Access;

/// The role and the schema.
#[derive(Debug, FromRow)]
pub(super) struct Place {
    /// The current role, quoted where SQL needs it.
    pub(super) role: String,
    /// None when there is no such schema.
    pub(super) usable: Option<bool>,
}

/// A table (or view) of the schema.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) oid: i64,
    /// Row-level security holds for the current role.
    pub(super) row_security: bool,
    pub(super) columns: HashMap<String, Column>,
}

/// A column of such a table.
#[derive(Debug, FromRow)]
pub(super) struct Column {
    table: i64,
    pub(super) name: String,
    /// As SQL writes it: `character varying(20)`.
    pub(super) written: String,
    /// The base type's name without a length; of an array, that of its elements and `[]`.
    pub(super) base: String,
    /// A text type (or an array of them), whatever it's called.
    pub(super) is_text: bool,
    pub(super) is_enum: bool,
    /// The most characters that fit.
    pub(super) length: Option<i32>,
    pub(super) not_null: bool,
    /// Something comes in where an INSERT leaves it out.
    pub(super) has_default: bool,
    can_select: bool,
    can_insert: bool,
    can_update: bool,
}

impl Column {
    pub(super) fn can(&self, access: Access) -> bool {
        match access {
            Access::Select => self.can_select,
            Access::Insert => self.can_insert,
            Access::Update => self.can_update,
        }
    }
}

pub(super) async fn place(schema: &str, db: &mut PgConnection) -> Result<Place, sqlx::Error> {
    sqlx::query_as(
        "select quote_ident(current_user) as role,
                (select has_schema_privilege(oid, 'usage') from pg_namespace where nspname = $1) as usable",
    )
    .bind(schema)
    .fetch_one(db)
    .await
}

pub(super) async fn tables(
    schema: &str,
    names: &[&str],
    db: &mut PgConnection,
) -> Result<HashMap<String, Table>, sqlx::Error> {
    let found: Vec<(i64, String, bool)> = sqlx::query_as(
        "select c.oid::bigint, c.relname::text, row_security_active(c.oid)
           from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where n.nspname = $1 and c.relname = any ($2) and c.relkind in ('r', 'p', 'v', 'f')",
    )
    .bind(schema)
    .bind(names)
    .fetch_all(&mut *db)
    .await?;
    let mut columns = columns(&found.iter().map(|(oid, ..)| *oid).collect::<Vec<_>>(), db).await?;
    let table = |(oid, name, row_security)| {
        (
            name,
            Table {
                oid,
                row_security,
                columns: columns.remove(&oid).unwrap_or_default(),
            },
        )
    };
    Ok(found.into_iter().map(table).collect())
}

/// The columns of some tables, by table and name.
async fn columns(tables: &[i64], db: &mut PgConnection) -> Result<HashMap<i64, HashMap<String, Column>>, sqlx::Error> {
    // A domain counts as the type under it.
    let columns: Vec<Column> = sqlx::query_as(
        "select a.attrelid::bigint as table, a.attname::text as name, format_type(a.atttypid, a.atttypmod) as written,
                format_type(b.oid, null) as base,
                coalesce(e.typcategory, b.typcategory) = 'S' as is_text,
                b.typtype = 'e' as is_enum,
                case when b.oid in ('varchar'::regtype, 'bpchar'::regtype) then nullif(
                    case when t.typtype = 'd' then t.typtypmod else a.atttypmod end, -1) - 4 end as length,
                a.attnotnull or t.typnotnull as not_null,
                a.atthasdef or a.attidentity <> '' or t.typdefault is not null as has_default,
                has_column_privilege(a.attrelid, a.attnum, 'select') as can_select,
                has_column_privilege(a.attrelid, a.attnum, 'insert') as can_insert,
                has_column_privilege(a.attrelid, a.attnum, 'update') as can_update
           from pg_attribute a
           join pg_type t on t.oid = a.atttypid
           join pg_type b on b.oid = case t.typtype when 'd' then t.typbasetype else t.oid end
           left join pg_type e on e.oid = b.typelem and b.typcategory = 'A'
          where a.attrelid = any ($1::bigint[]::oid[]) and a.attnum > 0 and not a.attisdropped",
    )
    .bind(tables)
    .fetch_all(db)
    .await?;
    let mut by_table: HashMap<i64, HashMap<String, Column>> = HashMap::new();
    for column in columns {
        by_table
            .entry(column.table)
            .or_default()
            .insert(column.name.clone(), column);
    }
    Ok(by_table)
}

/// A CHECK constraint: its name and its condition.
pub(super) async fn checks(table: i64, db: &mut PgConnection) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as(
        "select quote_ident(conname), pg_get_expr(conbin, conrelid) from pg_constraint
          where conrelid = $1::bigint::oid and contype = 'c' order by conname",
    )
    .bind(table)
    .fetch_all(db)
    .await
}

/// Whether some unique index is over exactly these columns.
pub(super) async fn is_unique(table: i64, columns: &[&str], db: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (
            select from pg_index i
             where i.indrelid = $1::bigint::oid and i.indisunique and i.indisvalid and i.indimmediate
               and i.indpred is null and i.indexprs is null and i.indnkeyatts = cardinality($2::text[])
               and $2::text[] @> (select array_agg(a.attname::text) from pg_attribute a
                     where a.attrelid = i.indrelid
                       and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])))",
    )
    .bind(table)
    .bind(columns)
    .fetch_one(db)
    .await
}
