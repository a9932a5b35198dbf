"""The texts of the page in each language; the parts between backticks are shown as code.

Errors and log lines are not translated: the page quotes them in the words of the log, which can be searched. Hints are,
in `hint_translations`.
"""

from collections.abc import Mapping
from typing import Final

from backupd.status.history import HOLDS_UNREADABLE, NOT_CONFIGURED
from backupd.web.gate_translations import GATE
from backupd.web.problem_translations import PROBLEMS, Phrase

TRANSLATIONS: Final[Mapping[str, Phrase]] = {
    "as-of": Phrase("as of {at} ({zone})", "a las {at} ({zone})"),
    "refresh.on": Phrase("refreshes every {every}:", "se actualiza cada {every}:"),
    "refresh.stop": Phrase("stop", "detener"),
    "refresh.off": Phrase("does not refresh:", "no se actualiza:"),
    "refresh.start": Phrase("start", "reanudar"),
    "runbook": Phrase("Runbook", "Guía de operación"),
    "within-limits": Phrase(
        "Backup, off-site copy and drill are still within their limits.",
        "La copia, la copia externa y el ensayo siguen dentro de su plazo.",
    ),
    "sign.success": Phrase("good", "bien"),
    "sign.failure": Phrase("bad", "mal"),
    "sign.warning": Phrase("warning", "aviso"),
    "to-do": Phrase("What to do", "Qué hacer"),
    "nothing-to-do": Phrase("Nothing to do.", "No hay nada que hacer."),
    "to-do.says": Phrase("Hint: {hint}.", "Sugerencia: {hint}."),
    "more": Phrase("{count} more: `backupd list`", "{count} más: `backupd list`"),
    "all-as-json": Phrase("This page as JSON", "Esta página en JSON"),
    "read-only": Phrase(
        "Read-only: use the command line to make changes.",
        "Solo lectura: los cambios se hacen desde la línea de comandos.",
    ),
    "timeout.title": Phrase("The disk does not respond", "El disco no responde"),
    "timeout.text": Phrase(
        "The disk with the backups has not responded for {seconds} s. This page tries again every {minutes} min; if it "
        "still fails, check the disk and the mount (`dmesg`, `df`), and `/livez`.",
        "El disco de las copias no responde desde hace {seconds} s. Esta página lo reintenta cada {minutes} min; si "
        "sigue igual, revise el disco y el montaje (`dmesg`, `df`), y `/livez`.",
    ),
    # Errors.
    "error.401.title": Phrase("Token required", "Se requiere el token"),
    "error.401.text": Phrase(
        "This page requires the token of backupd. Reload it, and enter the token as the password of any user.",
        "Esta página requiere el token de backupd. Recárguela e introduzca el token como contraseña, con "
        "cualquier usuario.",
    ),
    "error.403.title": Phrase("Available on its own host only", "Disponible solo desde su propio servidor"),
    "error.403.text": Phrase(
        "No token is set, so backupd accepts requests on loopback only. Your request came from another host, "
        "through a proxy, or names another host. Set `BACKUPD_HTTP__TOKEN` and restart backupd, or use an SSH "
        "tunnel to `127.0.0.1`.",
        "No hay ningún token configurado, así que backupd solo acepta peticiones locales. La suya llegó desde "
        "otro servidor, a través de un proxy, o nombra otro servidor. Defina `BACKUPD_HTTP__TOKEN` y reinicie "
        "backupd, o use un túnel SSH a `127.0.0.1`.",
    ),
    "error.404.title": Phrase("Page not found", "Página no encontrada"),
    "error.404.text": Phrase("The status page is at `/`.", "La página de estado está en `/`."),
    "error.500.title": Phrase("Internal error", "Error interno"),
    "error.500.text": Phrase(
        "This is a defect of backupd: `backupd log --level error` shows it. `backupd status` shows the status.",
        "Es un defecto de backupd: `backupd log --level error` lo muestra. `backupd status` muestra el estado.",
    ),
    # Stages of the page.
    "stage.healthy": Phrase("Everything is up to date", "Todo está al día"),
    "stage.degraded": Phrase("Up to date, with warnings", "Al día, con avisos"),
    "stage.empty": Phrase("No copy is left to restore", "No queda ninguna copia para restaurar"),
    "stage.first-day": Phrase("No backup yet", "Aún no hay copias"),
    "first-day.now": Phrase(
        "The first backup starts within two minutes", "La primera copia empieza en menos de dos minutos"
    ),
    "first-day.at": Phrase("The first backup starts at {at}", "La primera copia empieza el {at}"),
    "next.first-day": Phrase(
        "Nothing to do: it starts automatically. Until then `backupd doctor` checks the set-up.",
        "No hay nada que hacer: empieza automáticamente. Mientras tanto, `backupd doctor` comprueba la configuración.",
    ),
    "first-run.now": Phrase("The first one starts within minutes.", "La primera empieza en unos minutos."),
    "first-run.at": Phrase("The first one starts at {at}.", "La primera empieza el {at}."),
    "source.coming": Phrase(
        "No backup yet. {when} After it, days, sizes and generations appear here.",
        "Aún no hay copias. {when} Después aparecen aquí los días, los tamaños y las copias.",
    ),
    # Cards.
    "proofs": Phrase("Latest backup, off-site copy and drill", "Última copia, última copia externa y último ensayo"),
    "proof.backup": Phrase("Verified backup", "Copia verificada"),
    "proof.replicate": Phrase("Off-site copy", "Copia externa"),
    "proof.drill": Phrase("Restore drill", "Ensayo de restauración"),
    "age.never": Phrase("never", "nunca"),
    "age.ago": Phrase("{age} ago", "hace {age}"),
    "age.ahead": Phrase("in {age}", "en {age}"),
    "limit": Phrase("at most {limit}", "máximo {limit}"),
    "within": Phrase("within limit", "dentro del plazo"),
    "beyond": Phrase("too old", "fuera de plazo"),
    "none": Phrase("missing", "falta"),
    "clock": Phrase("check the clock", "revise el reloj"),
    "soon": Phrase("within minutes", "en unos minutos"),
    "planned": Phrase("the first one is planned", "la primera está prevista"),
    "not-set-up": Phrase("not set up", "sin configurar"),
    "last-run": Phrase("last", "última vez"),
    "next-run": Phrase("next {at}", "próxima vez {at}"),
    "next-run.retry": Phrase("retry {at}", "nuevo intento {at}"),
    "next-run.now": Phrase("due now", "pendiente"),
    "unset.backup": Phrase("No source is configured.", "No hay ninguna base configurada."),
    "unset.replicate": Phrase(
        "A fire would destroy all copies. Set `[replicas.offsite] url`, then run `backupd trust offsite`.",
        "Un incendio destruiría todas las copias. Defina `[replicas.offsite] url` y ejecute `backupd trust offsite`.",
    ),
    "unset.drill": Phrase(
        "No drill has verified that the copies can be restored. Set `[drill]`, or run `backupd drill`.",
        "Ningún ensayo ha comprobado que las copias se pueden restaurar. Defina `[drill]` o ejecute `backupd drill`.",
    ),
    # Calendar and charts.
    "source": Phrase("Source", "Base"),
    "calendar": Phrase("The last 12 months", "Los últimos 12 meses"),
    "calendar.summary": Phrase(
        "Calendar of {source} from {first} to {last}: {verified} days verified, {degraded} degraded, {failed} "
        "failed, {missed} missed.",
        "Calendario de {source} del {first} al {last}: {verified} días verificados, {degraded} con avisos, "
        "{failed} con fallos, {missed} sin copia.",
    ),
    "day.verified": Phrase("verified", "verificado"),
    "day.degraded": Phrase("degraded", "con avisos"),
    "day.failed": Phrase("failed", "con fallos"),
    "day.missed": Phrase("missed", "sin copia"),
    "day.none": Phrase("nothing due", "nada previsto"),
    "day.runs": Phrase("{failed} of {runs} runs failed", "fallaron {failed} de {runs} ejecuciones"),
    "days.other": Phrase("Days not verified: {count}", "Días no verificados: {count}"),
    "days.more": Phrase("and {count} earlier ones", "y {count} anteriores"),
    "weekday.0": Phrase("Mon", "lun"),
    "weekday.2": Phrase("Wed", "mié"),
    "weekday.4": Phrase("Fri", "vie"),
    "size": Phrase("Size", "Tamaño"),
    "duration": Phrase("Duration of a backup", "Duración de las copias"),
    "chart.database": Phrase("database", "base de datos"),
    "chart.archive": Phrase("archive", "copia comprimida"),
    "chart.size-summary": Phrase(
        "Size of {source} from {first} to {last}: latest database {snapshot}, latest archive {archive}.",
        "Tamaño de {source} del {first} al {last}: última base {snapshot}, última copia comprimida {archive}.",
    ),
    "chart.files-summary": Phrase(
        "Size of the files of {source} from {first} to {last}: latest {snapshot}.",
        "Tamaño de los archivos de {source} del {first} al {last}: el último {snapshot}.",
    ),
    "chart.duration-summary": Phrase(
        "Duration of the backups of {source} from {first} to {last}: latest {duration}.",
        "Duración de las copias de {source} del {first} al {last}: la última {duration}.",
    ),
    "chart.none": Phrase("No data yet.", "Aún no hay datos."),
    # Generations.
    "generations": Phrase("Generations", "Copias guardadas"),
    "generations.none": Phrase("None yet.", "Ninguna aún."),
    "generations.count": Phrase("{count} in total, {size}", "{count} en total, {size}"),
    # Restore points and sets of files.
    "points": Phrase("Restore points", "Puntos de restauración"),
    "points.count": Phrase("{count} in all", "{count} en total"),
    "points.how": Phrase(
        "A restore point has the databases and files of one run, which come back together:",
        "Un punto de restauración tiene las bases de datos y los archivos de una ejecución, que vuelven juntos:",
    ),
    "point": Phrase("restore point", "punto de restauración"),
    "point.spread": Phrase("at most {spread} apart", "separados como máximo {spread}"),
    "point.current": Phrase("nothing has changed since", "nada ha cambiado desde entonces"),
    "point.damaged": Phrase("a part is damaged or missing", "una parte está dañada o falta"),
    "parts": Phrase("parts", "partes"),
    "files": Phrase("Files", "Archivos"),
    "files.how": Phrase(
        "They come back with the restore point that they are part of:",
        "Vuelven con el punto de restauración del que forman parte:",
    ),
    "files.figures": Phrase(
        "{count} files, {size}; last change saved at {at}.",
        "{count} archivos, {size}; último cambio guardado: {at}.",
    ),
    "files.growth": Phrase(
        "Since the copy before: {files} files, {size}.", "Desde la copia anterior: {files} archivos, {size}."
    ),
    "restore": Phrase("Restore", "Restaurar"),
    "restore.how": Phrase(
        "To restore one: stop the app, run its command, start the app.",
        "Para restaurar una: pare la aplicación, ejecute el comando e inicie la aplicación.",
    ),
    "skip-charts": Phrase("Skip the charts", "Saltar los gráficos"),
    "generation": Phrase("generation", "copia"),
    "kept-for": Phrase("kept for", "se conserva por"),
    "copies": Phrase("copies at", "lugar"),
    "size-column": Phrase("size", "tamaño"),
    "goes": Phrase("removed by the next prune", "se elimina en la próxima purga"),
    "verification.full": Phrase("verified", "verificada"),
    "verification.structural": Phrase("structure verified", "estructura verificada"),
    "verification.opaque": Phrase("encrypted, digest verified", "cifrada, suma verificada"),
    "verification.corrupt": Phrase("damaged", "dañada"),
    "verification.unknown": Phrase("manifest not readable", "manifiesto ilegible"),
    "rule.last": Phrase("newest", "más reciente"),
    "rule.within": Phrase("within", "últimas"),
    "rule.window-start": Phrase("state at the start of the last", "estado al inicio de las últimas"),
    "rule.hourly": Phrase("hour", "hora"),
    "rule.daily": Phrase("day", "día"),
    "rule.weekly": Phrase("week", "semana"),
    "rule.monthly": Phrase("month", "mes"),
    "rule.yearly": Phrase("year", "año"),
    "pinned": Phrase("pinned", "fijada"),
    "pinned.until": Phrase("pinned until {at}", "fijada hasta el {at}"),
    "last-verified": Phrase("last verified", "última verificada"),
    "damaged: not counted; backupd remove deletes it": Phrase(
        "damaged: does not count; backupd remove deletes it", "dañada: no cuenta; elimínela con backupd remove"
    ),
    "its manifest cannot be read now: not counted": Phrase(
        "its manifest cannot be read now: does not count", "su manifiesto no se puede leer ahora: no cuenta"
    ),
    "dated in the future": Phrase("dated in the future", "con fecha futura"),
    "held: corrupt": Phrase("held: the source is damaged or unreadable", "retenida: la base está dañada o es ilegible"),
    "held: shrink": Phrase("held: the source has shrunk", "retenida: la base se ha reducido"),
    NOT_CONFIGURED: Phrase("source not configured", "base no configurada"),
    HOLDS_UNREADABLE: Phrase("not known: the holds cannot be read", "desconocido: no se pueden leer las retenciones"),
    # Drills, replicas, disk, log and tasks.
    "drill": Phrase("Last restore drill", "Último ensayo de restauración"),
    "drill.none": Phrase(
        "No restore drill has run yet. `backupd drill` runs one now.",
        "Aún no se ha hecho ningún ensayo de restauración. `backupd drill` hace uno ahora.",
    ),
    "drill.recovered": Phrase("restored in {duration}", "restaurada en {duration}"),
    "drill.failed": Phrase("failed after {duration}", "falló tras {duration}"),
    "drill.unfinished": Phrase("not finished", "sin terminar"),
    "drill.from": Phrase("{subject} from {store}, {at}", "{subject} desde {store}, {at}"),
    "drill.of": Phrase("{subject}, {at}", "{subject}, {at}"),
    "drill.before": Phrase("Earlier drills", "Ensayos anteriores"),
    "replicas": Phrase("Replicas", "Réplicas"),
    "replica.holds": Phrase("{count} generations, last sent {at}", "{count} copias, último envío {at}"),
    "disk": Phrase("Disk", "Disco"),
    "disk.summary": Phrase(
        "{total} in total: {stored} backups, {other} other files, {free} free.",
        "{total} en total: {stored} de copias, {other} de otros archivos, {free} libres.",
    ),
    "disk.stored": Phrase("backups {size}", "copias {size}"),
    "disk.other": Phrase("other files {size}", "otros archivos {size}"),
    "disk.free": Phrase("free {size}", "libres {size}"),
    "disk.unknown": Phrase("Not known.", "No se conoce."),
    "log": Phrase("Last log lines", "Últimas líneas del registro"),
    "log.none": Phrase("None yet.", "Ninguna aún."),
    "sources.more": Phrase("More sources, in /api/status only: {names}", "Más bases, solo en /api/status: {names}"),
    "task.backup": Phrase("backup", "la copia"),
    "task.replicate": Phrase("replication", "la replicación"),
    "task.drill": Phrase("restore drill", "el ensayo"),
    "task.prune": Phrase("prune", "la purga"),
    "task.scrub": Phrase("scrub", "la verificación"),
    **PROBLEMS,
    **GATE,
}
