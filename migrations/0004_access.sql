-- API keys: only the SHA-256 of a key is stored.
set local lock_timeout = '5s';

create table causelist.api_key (
    id         bigint generated always as identity primary key,
    name       text not null,
    -- The first characters, to tell keys apart in lists and logs.
    prefix     text collate "C" not null,
    hash       bytea not null unique check (length(hash) = 32),
    -- null: an operator's key, for all tenants.
    tenant     uuid,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used  timestamptz
);
