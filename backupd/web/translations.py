"""The texts of the page in each language; the parts between backticks are shown as code.

Errors, hints and log lines are not translated: the page quotes them in the words of the log, which can be searched.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from backupd.status.history import HOLDS_UNREADABLE, NOT_CONFIGURED


class Phrase(NamedTuple):
    """One text; its placeholders have the same names in each language."""

    en: str
    es: str


TRANSLATIONS: Final[Mapping[str, Phrase]] = {
    "as-of": Phrase("as of {at} ({zone})", "a las {at} ({zone})"),
    "refresh.on": Phrase("refreshes every {minutes} min:", "se actualiza cada {minutes} min:"),
    "refresh.stop": Phrase("stop", "detener"),
    "refresh.off": Phrase("does not refresh:", "no se actualiza:"),
    "refresh.start": Phrase("start", "reanudar"),
    "runbook": Phrase("Runbook", "Guía de emergencia"),
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
        "The disk with the backups has not responded for {seconds} s. Reload the page in a minute; if it still "
        "fails, check the disk and the mount (`dmesg`, `df`), and `/livez`.",
        "El disco de las copias no responde desde hace {seconds} s. Recargue la página en un minuto; si sigue "
        "igual, revise el disco y el montaje (`dmesg`, `df`), y `/livez`.",
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
        "Nothing to do: it starts by itself. Until then `backupd doctor` checks the set-up.",
        "No hay nada que hacer: empieza sola. Mientras tanto, `backupd doctor` comprueba la configuración.",
    ),
    "first-run.now": Phrase("The first one starts within minutes.", "La primera empieza en unos minutos."),
    "first-run.at": Phrase("The first one starts at {at}.", "La primera empieza el {at}."),
    "source.coming": Phrase(
        "No backup yet. {when} After it, days, sizes and generations appear here.",
        "Aún no hay copias. {when} Después aparecen aquí los días, los tamaños y las copias.",
    ),
    # The state in one sentence: what is wrong first of all.
    "state.more": Phrase("· {count} more below", "· {count} más abajo"),
    "state.store": Phrase("The backups cannot be read", "No se pueden leer las copias"),
    "state.catalog": Phrase("The results of the last runs are lost", "Se ignora cómo fueron las últimas ejecuciones"),
    "state.missing": Phrase("The database of {subject} is missing", "Falta la base {subject}"),
    "state.unusable": Phrase("The database of {subject} cannot be backed up", "La base {subject} no se puede copiar"),
    "state.damaged": Phrase("The database of {subject} is damaged", "La base {subject} está dañada"),
    "state.unreadable": Phrase("The database of {subject} can no longer be read", "La base {subject} ya no se lee"),
    "state.shrunk": Phrase("The database of {subject} has shrunk", "La base {subject} se ha reducido"),
    "state.never.backup": Phrase("There is no backup of {subject} yet", "Aún no hay ninguna copia de {subject}"),
    "state.never.replicate": Phrase("There is no off-site copy yet", "Aún no hay ninguna copia externa"),
    "state.never.drill": Phrase("No restore has been rehearsed yet", "Aún no se ha ensayado ninguna restauración"),
    "state.future": Phrase("A clock is or was wrong", "Un reloj está o estuvo mal"),
    "state.late.backup": Phrase(
        "No new backup of {subject} for {age}", "Sin copia nueva de {subject} desde hace {age}"
    ),
    "state.late.replicate": Phrase("No off-site copy for {age}", "Sin copia externa desde hace {age}"),
    "state.late.drill": Phrase("No restore rehearsed for {age}", "Sin ensayo de restauración desde hace {age}"),
    "state.failed.tonight": Phrase("Tonight's backup of {subject} failed", "Falló la copia de esta noche de {subject}"),
    "state.failed.last-night": Phrase(
        "Last night's backup of {subject} failed", "Falló la copia de anoche de {subject}"
    ),
    "state.failed.backup": Phrase("The last backup of {subject} failed", "Falló la última copia de {subject}"),
    "state.failed.replicate": Phrase("The last copy to {subject} failed", "Falló el último envío a {subject}"),
    "state.failed.drill": Phrase("The last restore drill failed", "Falló el último ensayo de restauración"),
    "state.failed.prune": Phrase(
        "Old backups of {subject} are not removed", "No se eliminan copias antiguas de {subject}"
    ),
    "state.failed.scrub": Phrase(
        "The backups could not be verified again", "No se pudieron volver a verificar las copias"
    ),
    "state.failed-again.backup": Phrase(
        "The last {runs} backups of {subject} failed", "Fallaron las últimas {runs} copias de {subject}"
    ),
    "state.failed-again.replicate": Phrase(
        "The last {runs} copies to {subject} failed", "Fallaron los últimos {runs} envíos a {subject}"
    ),
    "state.failed-again.drill": Phrase(
        "The last {runs} restore drills failed", "Fallaron los últimos {runs} ensayos de restauración"
    ),
    "state.generation": Phrase(
        "A stored backup of {subject} is damaged", "Una copia guardada de {subject} está dañada"
    ),
    "state.manifest": Phrase(
        "A stored backup of {subject} does not count", "Una copia guardada de {subject} no cuenta"
    ),
    "state.access": Phrase("A stored backup of {subject} does not count", "Una copia guardada de {subject} no cuenta"),
    "state.archive": Phrase("A stored backup of {subject} is gone", "Falta una copia guardada de {subject}"),
    "next.empty": Phrase(
        "Backups have run, but no verified copy is left. `backupd backup` makes one now, or shows why it fails.",
        "Se han hecho copias, pero no queda ninguna verificada. `backupd backup` hace una ahora o muestra por qué"
        " falla.",
    ),
    "next.empty.replica": Phrase(
        "`backupd list --store NAME` shows the copies at a replica; `backupd restore latest --from NAME` restores"
        " from it.",
        "`backupd list --store NAME` muestra las copias de una réplica; `backupd restore latest --from NAME` "
        "restaura desde ella.",
    ),
    "next.degraded-day": Phrase(
        "Not all backups of {source} succeeded on its last day: see the warnings in `backup.log`.",
        "No todas las copias de {source} del último día salieron bien: vea los avisos en `backup.log`.",
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
    # Problems and advice.
    "problem.never.backup": Phrase(
        "There is no verified backup of {subject} yet.", "Aún no hay ninguna copia verificada de {subject}."
    ),
    "problem.never.replicate": Phrase(
        "There is no off-site copy at {subject} yet.", "Aún no hay ninguna copia externa en {subject}."
    ),
    "problem.never.drill": Phrase(
        "There is no restore drill from {subject} yet.", "Aún no hay ningún ensayo de restauración desde {subject}."
    ),
    "problem.late.backup": Phrase(
        "The latest verified backup of {subject} is {age} old; the limit is {limit}.",
        "La última copia verificada de {subject} es de hace {age}; el plazo es de {limit}.",
    ),
    "problem.late.replicate": Phrase(
        "The latest off-site copy at {subject} is {age} old; the limit is {limit}.",
        "La última copia externa en {subject} es de hace {age}; el plazo es de {limit}.",
    ),
    "problem.late.drill": Phrase(
        "The latest restore drill from {subject} was {age} ago; the limit is {limit}.",
        "El último ensayo de restauración desde {subject} es de hace {age}; el plazo es de {limit}.",
    ),
    "problem.future": Phrase(
        "The latest success of {subject} is dated in the future.", "El último éxito de {subject} tiene fecha futura."
    ),
    "problem.damaged": Phrase(
        "The database of {subject} is damaged; pruning is on hold.",
        "La base {subject} está dañada: no se elimina ninguna copia.",
    ),
    "problem.shrunk": Phrase(
        "The database of {subject} has shrunk; pruning is on hold until an operator accepts it.",
        "La base {subject} se ha reducido: no se elimina ninguna copia hasta que usted lo acepte.",
    ),
    "problem.unreadable": Phrase(
        "The database of {subject} can no longer be read; pruning is on hold.",
        "La base {subject} ya no se puede leer: no se elimina ninguna copia.",
    ),
    "problem.missing": Phrase(
        "The database of {subject} is missing: it cannot be backed up.",
        "Falta la base {subject}: no se puede hacer ninguna copia.",
    ),
    "problem.unusable": Phrase(
        "The database of {subject} cannot be backed up in its current state.",
        "La base {subject} no se puede copiar en su estado actual.",
    ),
    "problem.failed": Phrase(
        "The {task} of {subject} has failed for {age} (failed runs: {runs}).",
        "Falla {task} de {subject} desde hace {age} (ejecuciones fallidas: {runs}).",
    ),
    "problem.generation": Phrase(
        "Generation {reference} is damaged and no longer counts.", "La copia {reference} está dañada y ya no cuenta."
    ),
    "problem.manifest": Phrase(
        "Generation {reference} does not count: its manifest cannot be used.",
        "La copia {reference} no cuenta: su manifiesto no se puede usar.",
    ),
    "problem.access": Phrase(
        "Generation {reference} does not count: its manifest cannot be read.",
        "La copia {reference} no cuenta: su manifiesto no se puede leer.",
    ),
    "problem.archive": Phrase(
        "Generation {reference} does not count: its archive is gone.",
        "La copia {reference} no cuenta: falta su archivo.",
    ),
    "problem.catalog": Phrase(
        "The catalog cannot be used: the results of the last runs are not known.",
        "No se puede usar el catálogo: no se sabe cómo terminaron las últimas ejecuciones.",
    ),
    "problem.store": Phrase(
        "The directory of the backups cannot be read.", "No se puede leer el directorio de las copias."
    ),
    "exposed": Phrase(
        "The app can delete the backups along with its database.",
        "La aplicación puede borrar las copias junto con su base de datos.",
    ),
    "advice.exposed": Phrase(
        "Set a replica, or give the backups a volume of their own: `backupd doctor` shows the lines.",
        "Configure una réplica o dé a las copias un volumen propio: `backupd doctor` muestra las líneas.",
    ),
    "unheard.messages": Phrase("Messages that wait for delivery: {count}.", "Mensajes pendientes de entrega: {count}."),
    "unheard.ping": Phrase("The last ping of a monitor failed: {ping}.", "Falló el último ping a un monitor: {ping}."),
    "advice.unheard": Phrase(
        "`backupd notify` shows the error; `backupd notify --test` tries again.",
        "`backupd notify` muestra el error; `backupd notify --test` lo intenta de nuevo.",
    ),
    "advice.backup": Phrase(
        "`backupd backup` makes one now, or shows why it fails.",
        "`backupd backup` hace una ahora o muestra por qué falla.",
    ),
    "advice.replicate": Phrase(
        "`backupd doctor` checks login, host key and permissions at the replica; `backupd replicate` sends now.",
        "`backupd doctor` comprueba el acceso, la clave del servidor y los permisos de la réplica; `backupd "
        "replicate` envía ahora.",
    ),
    "advice.drill": Phrase(
        "`backupd drill` runs one now, or shows why it fails.",
        "`backupd drill` hace un ensayo ahora o muestra por qué falla.",
    ),
    "advice.future": Phrase(
        "Check the clock of this host (NTP); the next success resolves this.",
        "Revise el reloj de este servidor (NTP); el próximo éxito lo resuelve.",
    ),
    "advice.damaged": Phrase(
        "The live database of the app is damaged: restore a verified generation (`backupd list`), or repair it.",
        "La base de datos en uso está dañada: restaure una copia verificada (`backupd list`) o repárela.",
    ),
    "advice.shrunk": Phrase(
        "If the loss is intended: `backupd prune --unfreeze`. Otherwise restore the latest generation before it.",
        "Si la pérdida es intencionada: `backupd prune --unfreeze`. Si no, restaure la última copia anterior.",
    ),
    "advice.unreadable": Phrase(
        "If this is intended: `backupd prune --unfreeze`. Otherwise restore the latest verified generation.",
        "Si es intencionado: `backupd prune --unfreeze`. Si no, restaure la última copia verificada.",
    ),
    "advice.missing": Phrase("Check that its volume is mounted.", "Compruebe que su volumen está montado."),
    "advice.unusable": Phrase("`backupd doctor` shows the cause.", "`backupd doctor` muestra la causa."),
    "advice.restore": Phrase(
        "To restore it, stop the app: `{command}`.",
        "Para restaurarla, pare la aplicación: `{command}`.",
    ),
    "advice.generation": Phrase(
        "Check the disk (`dmesg`); `backupd verify --all` verifies every generation.",
        "Revise el disco (`dmesg`); `backupd verify --all` verifica todas las copias.",
    ),
    "advice.manifest": Phrase(
        "If `gunzip -t` finds its archive intact, copy it elsewhere; then run `backupd remove {reference}`.",
        "Si `gunzip -t` encuentra su archivo intacto, cópielo a otro lugar; después: `backupd remove {reference}`.",
    ),
    "advice.access": Phrase(
        "Check owner and permissions of its manifest, and the disk (`dmesg`).",
        "Revise el propietario y los permisos de su manifiesto, y el disco (`dmesg`).",
    ),
    "advice.archive": Phrase(
        "Put the archive back, or run `backupd remove {reference}`.",
        "Devuelva el archivo a su sitio, o ejecute `backupd remove {reference}`.",
    ),
    "advice.store": Phrase(
        "Check mount, owner and permissions of `backups_dir`; run `backupd doctor`.",
        "Revise el montaje, el propietario y los permisos de `backups_dir`; ejecute `backupd doctor`.",
    ),
    "unread.store": Phrase(
        "The directory of the backups cannot be read: its generations are not shown.",
        "No se puede leer el directorio de las copias: no se muestran.",
    ),
    "unread.catalog": Phrase(
        "The catalog cannot be used: past runs, drills and copies at replicas are not shown. Backups continue.",
        "No se puede usar el catálogo: no se muestran las ejecuciones, los ensayos ni las copias externas. Se "
        "siguen haciendo copias.",
    ),
    "unread.log": Phrase("`backup.log` cannot be read.", "No se puede leer `backup.log`."),
    "advice.catalog": Phrase(
        "`backupd catalog rebuild` builds a new one from the manifests.",
        "`backupd catalog rebuild` crea uno nuevo a partir de los manifiestos.",
    ),
    "advice.log": Phrase("Check its owner and permissions.", "Revise su propietario y sus permisos."),
    "advice.prune": Phrase("`backupd prune` tries again now.", "`backupd prune` lo intenta de nuevo ahora."),
    "advice.scrub": Phrase(
        "`backupd verify --all` verifies every generation.", "`backupd verify --all` verifica todas las copias."
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
    "chart.duration-summary": Phrase(
        "Duration of the backups of {source} from {first} to {last}: latest {duration}.",
        "Duración de las copias de {source} del {first} al {last}: la última {duration}.",
    ),
    "chart.none": Phrase("No data yet.", "Aún no hay datos."),
    # Generations.
    "generations": Phrase("Generations", "Copias guardadas"),
    "generations.none": Phrase("None yet.", "Ninguna aún."),
    "generations.count": Phrase("{count} in total, {size}", "{count} en total, {size}"),
    "restore": Phrase("Restore", "Restaurar"),
    "restore.how": Phrase(
        "To restore one: stop the app, run its command, start the app.",
        "Para restaurar una: pare la aplicación, ejecute su orden, inicie la aplicación.",
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
}
