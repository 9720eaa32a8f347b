# Images of the production-like stack (docker-compose.yaml):
#   airflow  every Airflow component and the pipeline
#   mirror   the same plus the simulator of the FHIR mirror, for demonstrations only

FROM python:3.11.15-slim-bookworm AS python
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

FROM python AS packages
COPY requirements.txt /tmp/requirements.txt
# The lock is complete: --no-deps makes an undeclared package a failure of `pip check`, not a surprise.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-deps -r /tmp/requirements.txt \
    && /opt/venv/bin/pip check

FROM python AS airflow
# uid 50000 and gid 0 as in Airflow's own image: volumes made by one work with the other.
RUN useradd --uid 50000 --gid 0 --create-home --home-dir /home/airflow --shell /usr/sbin/nologin airflow \
    && install -d -o airflow -g 0 -m 0770 /opt/airflow /opt/airflow/logs /var/lib/imunizacao/scratch
COPY --from=packages /opt/venv /opt/venv
WORKDIR /opt/imunizacao
COPY include ./include
COPY dags ./dags
COPY plugins ./plugins
COPY expectations ./expectations
COPY docker/healthcheck.py docker/airflow-init.sh /opt/imunizacao/docker/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/imunizacao/include \
    AIRFLOW_HOME=/opt/airflow
USER airflow
VOLUME ["/opt/airflow/logs", "/var/lib/imunizacao/scratch"]
CMD ["airflow", "version"]

FROM airflow AS mirror
COPY tests/mirror ./tests/mirror
CMD ["python", "-m", "tests.mirror", "--help"]
