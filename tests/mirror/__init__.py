"""A simulator of a FHIR mirror of the RNDS, for tests, demonstrations and benchmarks. It runs as a process.

    python -m tests.mirror serve    a FHIR R4 server with seeded, national-shaped vaccination documents and named faults
    python -m tests.mirror generate the same documents straight to landing files, without HTTP
    python -m tests.mirror cnes     the demonstration snapshot of the CNES

Every person, establishment and document in it is fictional. README.md beside this file lists what it plants and how often.
"""
