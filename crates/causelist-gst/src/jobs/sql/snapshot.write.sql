-- Into the host's table; a value that is there already is not written again.
written as (
    insert into host.analytics_snapshots as a (tenant_id, snapshot_date, metric_type, metric_value)
    select tenant, today, metric_type, metric_value from snapshot
    on conflict (tenant_id, snapshot_date, metric_type)
    do update set metric_value = excluded.metric_value
    where a.metric_value is distinct from excluded.metric_value
)
