-- From which reference day on a version of a small table is in force, where the person who imports it knows.
alter table controle.reference_snapshot
add column valid_from date,
add constraint cnes_is_in_force_from_its_competencia check (kind <> 'cnes' or valid_from is null);

comment on column controle.reference_snapshot.valid_from is
'IBGE, PNI: first reference day that `of-the-day` takes it for; null = any day. CNES: null, its competência says it.';
