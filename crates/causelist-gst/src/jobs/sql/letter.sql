-- The messages not yet in the ledger: draft has every one that should be.
letter as materialized (
    select d.* from draft d
    where not exists (select from causelist.message m
                      where m.tenant = d.tenant and m.template = d.template and m.entity_id = d.entity_id
                        and m.occasion = d.occasion and m.recipient = d.recipient and m.channel = d.channel)
)
