"""The thin layer between Airflow and the package `imunizacao`: connections in, receipts out, pages for the UI."""
