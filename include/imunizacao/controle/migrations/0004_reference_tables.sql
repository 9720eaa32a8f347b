-- Versions of the small reference tables (IBGE, PNI) with their rows, beside those of the CNES. Written once, never changed.
alter table controle.reference_snapshot
add column name text not null default '',
add constraint name_is_that_of_a_pni_table check (name = '' or (kind = 'pni' and name ~ '^[a-z][a-z0-9_]*$')),
drop constraint snapshot_is_imported_once,
add constraint snapshot_is_imported_once unique (kind, name, sha256, import_rules);

comment on column controle.reference_snapshot.name is
'PNI: table without pni_, for an imported one; empty = the tables together, as days use them. Empty for CNES and IBGE.';
comment on column controle.reference_snapshot.version is
'CNES: competência AAAAMM. IBGE, PNI: what the importer or the CodeSystem calls it, else the first 12 digits of sha256.';
comment on column controle.reference_snapshot.sha256 is
'Of the source: the file as received; the CSV files of the project; over the hashes of the tables for the PNI as a whole.';

create index snapshot_newest on controle.reference_snapshot (kind, name, id);

create table controle.ibge_municipio (
    snapshot_id bigint not null references controle.reference_snapshot (id) on delete cascade,
    co_ibge_7 char(7) not null check (co_ibge_7 ~ '^[0-9]{7}$'),
    co_ibge_6 char(6) not null check (co_ibge_6 = left(co_ibge_7, 6)),
    no_municipio text not null,
    co_uf char(2) not null check (co_uf = left(co_ibge_7, 2)),
    sg_uf char(2) not null,
    no_uf text not null,
    no_regiao text not null,
    primary key (snapshot_id, co_ibge_7)
);

comment on table controle.ibge_municipio is 'Municipalities of one IBGE snapshot.';

create table controle.pni_codigo (
    snapshot_id bigint not null references controle.reference_snapshot (id) on delete cascade,
    co_codigo text not null check (co_codigo <> ''),
    valores jsonb not null check (jsonb_typeof(valores) = 'object'),
    primary key (snapshot_id, co_codigo)
);

comment on table controle.pni_codigo is 'Codes of one snapshot of one PNI table.';
comment on column controle.pni_codigo.valores is 'Column of include/reference/pni → text or null; the key is in it, too.';

create trigger ibge_never_changes before update on controle.ibge_municipio
for each statement execute function controle.refuse_change();

create trigger pni_never_changes before update on controle.pni_codigo
for each statement execute function controle.refuse_change();
