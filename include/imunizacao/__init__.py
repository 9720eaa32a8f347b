"""Daily immunization datasets from a FHIR mirror of the RNDS. Start reading at `pipeline.py`."""

__version__ = "0.1.0"
