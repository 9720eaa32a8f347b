#!/bin/sh
# Bring the metadata database to this version and make the first administrator. Safe to run again.
set -eu
airflow db migrate
# Says so and changes nothing when the user exists already.
airflow users create \
    --username "$ADMIN_USERNAME" \
    --password "$ADMIN_PASSWORD" \
    --email "$ADMIN_EMAIL" \
    --firstname "$ADMIN_USERNAME" \
    --lastname imunizacao \
    --role Admin
