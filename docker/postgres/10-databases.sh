#!/bin/sh
# Two databases with an owner each: Airflow's metadata, and `imunizacao` with the schema controle. Neither owner can
# connect to the other's. Runs once, when the volume is empty.
set -eu
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv airflow_password AIRFLOW_DB_PASSWORD
\getenv controle_password CONTROLE_DB_PASSWORD
create role airflow login password :'airflow_password';
create role imunizacao login password :'controle_password';
create database airflow owner airflow;
create database imunizacao owner imunizacao;
revoke connect on database airflow from public;
revoke connect on database imunizacao from public;
revoke connect on database postgres from public;
SQL
