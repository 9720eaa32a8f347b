-- Which part of a quarantine was published since, by which replay.
alter table controle.quarantine
add column qt_replayed bigint not null default 0,
add column replayed_by text,
add column replayed_at timestamptz,
add constraint quarantine_replays_what_was_there check (qt_replayed between 0 and qt_doses),
add constraint quarantine_replayed_has_a_run check (
    (state = 'replayed') = (qt_replayed > 0) and (state = 'replayed') = (replayed_by is not null)
    and (replayed_by is null) = (replayed_at is null)
);

comment on column controle.quarantine.state is
'open = of the newest run of the day; superseded = a newer run judged the day again; replayed = the same, and a replay published qt_replayed of its doses.';
comment on column controle.quarantine.replayed_by is 'Run of the replay; its own rows are what is still in quarantine.';
