-- Reference tables by version. A snapshot is written once and never changed: a day must be reproducible with it.
create table controle.reference_snapshot (
    id bigint generated always as identity primary key,
    kind text not null check (kind in ('cnes', 'ibge', 'pni')),
    version text not null,
    sha256 char(64) not null check (sha256 ~ '^[0-9a-f]{64}$'),
    import_rules char(64) not null check (import_rules ~ '^[0-9a-f]{64}$'),
    origin text not null,
    imported_at timestamptz not null default now(),
    rows bigint not null check (rows >= 0),
    rows_active bigint not null check (rows_active between 0 and rows),
    constraint cnes_version_is_a_competencia check (kind <> 'cnes' or version ~ '^[0-9]{4}(0[1-9]|1[0-2])$'),
    constraint snapshot_is_imported_once unique (kind, sha256, import_rules)
);

comment on column controle.reference_snapshot.version is 'CNES: competência AAAAMM. IBGE, PNI: first 12 digits of sha256.';
comment on column controle.reference_snapshot.sha256 is 'Of the source: the CNES file as received; the CSV files in the project.';
comment on column controle.reference_snapshot.import_rules is
'Of the SQL and the IBGE table that read the source: the same file read by other rules is another snapshot.';

create table controle.cnes_estabelecimento (
    snapshot_id bigint not null references controle.reference_snapshot (id) on delete cascade,
    co_cnes char(7) not null check (co_cnes ~ '^[0-9]{7}$'),
    co_municipio_6 char(6) check (co_municipio_6 ~ '^[0-9]{6}$'),
    no_razao_social text,
    no_fantasia text,
    co_tipo_estabelecimento varchar(2),
    co_natureza_juridica char(4),
    co_motivo_desab varchar(2),
    primary key (snapshot_id, co_cnes)
);

comment on table controle.cnes_estabelecimento is
'Establishments of one CNES snapshot, deactivated ones included. No CPF, address, telephone or e-mail.';
comment on column controle.cnes_estabelecimento.co_municipio_6 is 'Null where the file names no known municipality.';
comment on column controle.cnes_estabelecimento.co_motivo_desab is 'Null = active.';

create function controle.refuse_change() returns trigger
language plpgsql as $$
begin
    raise exception '% is never changed: import a new snapshot', tg_table_name using errcode = 'restrict_violation';
end
$$;

create trigger snapshot_never_changes before update on controle.reference_snapshot
for each statement execute function controle.refuse_change();

create trigger cnes_never_changes before update on controle.cnes_estabelecimento
for each statement execute function controle.refuse_change();
