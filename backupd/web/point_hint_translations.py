"""The Spanish of the hints about restore points, sets of files and hooks, by clause, as in `hint_translations`."""

from collections.abc import Mapping
from typing import Final

POINT_HINTS: Final[Mapping[str, str]] = {
    "use another generation (backupd list)": "use otra copia (backupd list)",
    "verify this one": "verifique esta",
    "backupd verify": "backupd verify",
    "gunzip can still show the list of this one": "gunzip aún puede mostrar la lista de esta",
    "use another restore point (backupd list --points)": "use otro punto de restauración (backupd list --points)",
    "restore its generations one by one": "restaure sus copias una por una",
    "see backupd list --points": "vea backupd list --points",
    "move that file away": "mueva ese archivo a otro lugar",
    "find out who wrote these files": "averigüe quién escribió estos archivos",
    "backupd verify --all names the generations that need it": (
        "backupd verify --all nombra las copias que lo necesitan"
    ),
    "another store may have it whole": "otro almacén puede tenerlo intacto",
    "check rights": "revise los permisos",
    "find out what removes these files": "averigüe qué elimina estos archivos",
    "names them before they exist (docs/drill.md)": "qué los nombra antes de que existan (docs/drill.md)",
    "simplify files.{}.query": "simplifique files.{}.query",
    "raise its timeout_s": "aumente su timeout_s",
    "check files.{}.query": "revise files.{}.query",
    "remove files.{}.query": "quite files.{}.query",
    "verify it (backupd verify {})": "verifíquela (backupd verify {})",
    "remove it if it is damaged": "elimínela si está dañada",
    "backupd remove {}": "backupd remove {}",
    "if backupd verify finds that generation damaged": "si backupd verify encuentra dañada esa copia",
    "remove it: backupd remove ID": "elimínela: backupd remove ID",
    "restore the databases alone (--only NAME)": "restaure solo las bases (--only NAME)",
    "the point from another store (--from NAME)": "el punto desde otro almacén (--from NAME)",
    "stop what writes there": "pare lo que escribe ahí",
    "run the same command again": "ejecute de nuevo el mismo comando",
    "mount the volume of the app": "monte el volumen de la aplicación",
    "backupd list --points shows the restore points that can be restored": (
        "backupd list --points muestra los puntos que se pueden restaurar"
    ),
    # Hooks.
    "check hooks.before and PATH": "revise hooks.before y PATH",
    "let the hook end sooner": "haga que el hook termine antes",
    "raise hooks.timeout_s": "aumente hooks.timeout_s",
    "run the hook by hand (docs/hooks.md)": "ejecute el hook a mano (docs/hooks.md)",
    "run it again later": "ejecútelo de nuevo más tarde",
    "the daemon does so by itself": "el daemon lo hace por sí solo",
}
