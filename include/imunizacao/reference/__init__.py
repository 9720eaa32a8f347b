"""Reference tables by version: establishments (CNES), places (IBGE) and code tables (PNI).

Files come from outside (an official CNES file, a table of the IBGE, a CodeSystem), are checked, compared with what was there and
kept in PostgreSQL as snapshots that never change. For a run, the chosen snapshots are exported to the work bucket as Parquet
under keys that name their content, so that every stage on every worker reads the same bytes. Where no snapshot of a table
is stored, the project's own is used.
"""

from imunizacao.reference.choice import NEWEST, OF_THE_DAY
from imunizacao.reference.cnes import SHRINK_LIMIT, UNREADABLE_LIMIT, WITHOUT_MUNICIPIO_LIMIT, CnesImport, import_cnes
from imunizacao.reference.cnes_file import MONTHLY_COLUMNS, OPEN_COLUMNS
from imunizacao.reference.common import TableImport
from imunizacao.reference.export import ReferenceSet, export_references, load_references
from imunizacao.reference.ibge import IBGE_MUNICIPALITIES, IBGE_UFS, ibge_check_digit, import_ibge, require_ibge
from imunizacao.reference.importing import Imported, guess_kind, import_reference
from imunizacao.reference.inbox import INBOX, KEPT, Refreshed, Refused, import_inbox, require_accepted
from imunizacao.reference.places import CHANGES, MOVING, Affected, AffectedDay, affected_days, places_key, write_places
from imunizacao.reference.pni import PNI_CODE_WIDTHS, import_pni, require_pni
from imunizacao.reference.versions import Compared, compare_versions, list_versions

__all__ = [
    "CHANGES",
    "IBGE_MUNICIPALITIES",
    "IBGE_UFS",
    "INBOX",
    "KEPT",
    "MONTHLY_COLUMNS",
    "MOVING",
    "NEWEST",
    "OF_THE_DAY",
    "OPEN_COLUMNS",
    "PNI_CODE_WIDTHS",
    "SHRINK_LIMIT",
    "UNREADABLE_LIMIT",
    "WITHOUT_MUNICIPIO_LIMIT",
    "Affected",
    "AffectedDay",
    "CnesImport",
    "Compared",
    "Imported",
    "ReferenceSet",
    "Refreshed",
    "Refused",
    "TableImport",
    "affected_days",
    "compare_versions",
    "export_references",
    "guess_kind",
    "ibge_check_digit",
    "import_cnes",
    "import_ibge",
    "import_inbox",
    "import_pni",
    "import_reference",
    "list_versions",
    "load_references",
    "places_key",
    "require_accepted",
    "require_ibge",
    "require_pni",
    "write_places",
]
