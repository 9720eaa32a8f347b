-- What every stage of every run did: one row per attempt.
create table controle.outcome (
    reference_day date not null,
    stage text not null check (stage ~ '^[a-z][a-z0-9_]*$'),
    run_id text not null check (run_id <> ''),
    attempt integer not null check (attempt >= 1),
    state text not null check (state in ('running', 'done', 'failed', 'held')),
    started_at timestamptz not null,
    finished_at timestamptz,
    seconds double precision check (seconds >= 0),
    counts jsonb not null default '{}',
    bytes bigint not null default 0 check (bytes >= 0),
    revision integer check (revision >= 1),
    code_version text not null,
    error_code text,
    message text,
    primary key (reference_day, stage, run_id, attempt),
    constraint outcome_counts_are_numbers check (
        jsonb_typeof(counts) = 'object' and not jsonb_path_exists(counts, '$.* ? (@.type() != "number")')
    ),
    constraint outcome_end_has_a_time check ((state = 'running') = (finished_at is null)),
    constraint outcome_error_is_of_a_bad_end check (error_code is null or state in ('failed', 'held'))
);

comment on table controle.outcome is
'One row per reference day, stage, run and attempt. Counts, seconds and bytes only: no identifiers, no values.';
comment on column controle.outcome.error_code is 'Name of the exception class.';
comment on column controle.outcome.message is 'Our own message, never the text of another library.';

create index outcome_started on controle.outcome (started_at);
