-- How many doses wait in quarantine, per reason and state. The doses themselves are in the work bucket, never here.
create table controle.quarantine (
    reference_day date not null,
    run_id text not null check (run_id <> ''),
    reason text not null check (reason ~ '^[A-Z][A-Z0-9_]*$'),
    co_uf char(2) not null check (co_uf ~ '^[0-9]{2}$'),
    qt_doses bigint not null check (qt_doses > 0),
    state text not null default 'open' check (state in ('open', 'superseded', 'replayed')),
    rules_version text not null,
    recorded_at timestamptz not null default now(),
    primary key (reference_day, run_id, reason, co_uf)
);

comment on table controle.quarantine is
'Doses in quarantine by reason and UF of the establishment (00 = unknown). A dose with two reasons counts under each.';
comment on column controle.quarantine.state is
'open = of the newest run of the day; superseded = a newer run judged the day again; replayed = published since.';

create index quarantine_open on controle.quarantine (reason, reference_day) where state = 'open';
