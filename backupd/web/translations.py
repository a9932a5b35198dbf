"""All that the page says, in each of its languages; what stands between backticks is shown as code.

Words of the log (errors, hints, log lines) are no phrases: they are quoted as they were written, to be searched for.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from backupd.status.history import HOLDS_UNREADABLE, NOT_CONFIGURED

Language = Literal["en", "es"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "es")
_MOST_CHARACTERS: Final = 1000


class Phrase(NamedTuple):
    """One thing to say; its placeholders have the same names in each language."""

    en: str
    es: str


def say(language: Language, key: str, **values: object) -> str:
    """Return the phrase `key` with its placeholders filled. Raises KeyError when there is no such phrase."""
    phrase: str = getattr(TRANSLATIONS[key], language)
    return phrase.format(**values)


_PAGE: Final = {
    "as-of": Phrase("as of {at} ({zone})", "a las {at} ({zone})"),
    "sign.good": Phrase("good", "bien"),
    "sign.bad": Phrase("bad", "mal"),
    "sign.warn": Phrase("warning", "aviso"),
    "to-do": Phrase("What to do", "Qué hacer"),
    "nothing-to-do": Phrase("Nothing to do.", "No hay nada que hacer."),
    "to-do.says": Phrase("Its advice: {hint}", "Su consejo: {hint}"),
    "more": Phrase("{count} more: `backupd list`", "{count} más: `backupd list`"),
    "all-as-json": Phrase("The same as JSON", "Lo mismo en JSON"),
    "read-only": Phrase(
        "This page changes nothing; what is done is done by command.",
        "Esta página no cambia nada; todo se hace por línea de comandos.",
    ),
    "late.title": Phrase("No answer from the disk", "El disco no responde"),
    "late.text": Phrase(
        "The disk with the backups has not answered for {patience} s. Ask again in a minute; if that does not help, "
        "look at the disk or the mount (`dmesg`, `df`), and at `/livez`.",
        "El disco de las copias no responde desde hace {patience} s. Vuelva a preguntar en un minuto; si no ayuda, "
        "revise el disco o el montaje (`dmesg`, `df`) y `/livez`.",
    ),
}
_ERRORS: Final = {
    "error.401.title": Phrase("Only with the token", "Solo con el token"),
    "error.401.text": Phrase(
        "This needs the token of backupd. Load the page again, and give the token as the password of any user.",
        "Esto requiere el token de backupd. Vuelva a cargar la página e introdúzcalo como contraseña de un usuario.",
    ),
    "error.403.title": Phrase("Only from its own host", "Solo desde su propio servidor"),
    "error.403.text": Phrase(
        "No token is set, so backupd answers on loopback only. Your request came from elsewhere or through a proxy, or "
        "names another host. Set `BACKUPD_HTTP__TOKEN` and restart backupd, or use an SSH tunnel to `127.0.0.1`.",
        "No hay token, así que backupd solo responde en la interfaz local. Su petición llegó de fuera o por un proxy, "
        "o nombra otro servidor. Defina `BACKUPD_HTTP__TOKEN` y reinicie backupd, o use un túnel SSH a `127.0.0.1`.",
    ),
    "error.404.title": Phrase("There is nothing here", "Aquí no hay nada"),
    "error.404.text": Phrase("The status page is at `/`.", "La página de estado está en `/`."),
    "error.500.title": Phrase("This page could not be made", "No se pudo generar esta página"),
    "error.500.text": Phrase(
        "That is a defect of backupd; `backupd log --level error` says more. `backupd status` tells how it stands.",
        "Es un defecto de backupd; `backupd log --level error` dice más. `backupd status` muestra el estado.",
    ),
}
_STAGES: Final = {
    "stage.healthy": Phrase("All proofs are within their limits", "Todas las pruebas están dentro de su límite"),
    "stage.degraded": Phrase("Within the limits, with warnings", "Dentro de los límites, con avisos"),
    "stage.failing": Phrase("Not healthy", "Con fallos"),
    "stage.empty": Phrase("There is nothing to restore from", "No hay nada que restaurar"),
    "stage.first-day": Phrase("No backup yet", "Aún no hay copias"),
    "next.first-day": Phrase(
        "The first backup begins by itself within a minute or two. If none appears, ask `backupd doctor`.",
        "La primera copia empieza sola en uno o dos minutos. Si no aparece, pregunte a `backupd doctor`.",
    ),
    "next.empty": Phrase(
        "No verified copy is left, though backups have run. `backupd backup` makes one now, and says what is wrong.",
        "No queda ninguna copia verificada, aunque hubo ejecuciones. `backupd backup` hace una ahora y dice qué falla.",
    ),
    "next.empty.replica": Phrase(
        "`backupd list --store NAME` shows what a replica holds; `backupd restore latest --from NAME` restores it.",
        "`backupd list --store NAME` muestra lo que guarda una réplica; `backupd restore latest --from NAME` restaura "
        "desde ella.",
    ),
    "next.degraded-day": Phrase(
        "The last day of {source} was not wholly good: `backup.log` lists the warnings of its runs.",
        "El último día de {source} no fue del todo bueno: `backup.log` contiene los avisos.",
    ),
}
_PROOFS: Final = {
    "proofs": Phrase("How old the last proofs are", "Antigüedad de las últimas pruebas"),
    "proof.backup": Phrase("Verified", "Verificada"),
    "proof.replicate": Phrase("Off-site", "Fuera del servidor"),
    "proof.drill": Phrase("Drilled", "Restauración ensayada"),
    "age.never": Phrase("never", "nunca"),
    "age.ago": Phrase("{age} ago", "hace {age}"),
    "age.ahead": Phrase("in {age}", "en {age}"),
    "limit": Phrase("at most {limit}", "máximo {limit}"),
    "within": Phrase("within limit", "dentro del límite"),
    "beyond": Phrase("too old", "vencida"),
    "none": Phrase("missing", "falta"),
    "clock": Phrase("check the clock", "revise el reloj"),
    "not-set-up": Phrase("not set up", "sin configurar"),
    "last-run": Phrase("last", "última"),
    "next-run": Phrase("next {at}", "próxima {at}"),
    "next-run.retry": Phrase("tried again {at}", "nuevo intento {at}"),
    "next-run.now": Phrase("due now", "pendiente ahora"),
    "unset.backup": Phrase("No source is configured.", "No hay ninguna base configurada."),
    "unset.replicate": Phrase(
        "A fire would take all copies. Set `[replicas.offsite] url`, then `backupd trust offsite`.",
        "Un incendio se llevaría todas las copias. Defina `[replicas.offsite] url`; después `backupd trust offsite`.",
    ),
    "unset.drill": Phrase(
        "Nothing proves yet that the copies restore. Set `[drill]`, or run `backupd drill`.",
        "Nada demuestra aún que las copias se restauran. Defina `[drill]` o ejecute `backupd drill`.",
    ),
}
_PROBLEMS: Final = {
    "problem.never.backup": Phrase(
        "There is no verified backup of {subject} yet.", "Aún no hay copia verificada de {subject}."
    ),
    "problem.never.replicate": Phrase(
        "There is no off-site copy at {subject} yet.", "Aún no hay copia externa en {subject}."
    ),
    "problem.never.drill": Phrase(
        "There is no proven restore from {subject} yet.", "Aún no se ensayó una restauración desde {subject}."
    ),
    "problem.late.backup": Phrase(
        "The last verified backup of {subject} is {age} old, more than {limit}.",
        "La última copia verificada de {subject} tiene {age}, más de {limit}.",
    ),
    "problem.late.replicate": Phrase(
        "The last off-site copy at {subject} is {age} old, more than {limit}.",
        "La última copia externa en {subject} tiene {age}, más de {limit}.",
    ),
    "problem.late.drill": Phrase(
        "The last proven restore from {subject} is {age} old, more than {limit}.",
        "La última restauración ensayada desde {subject} tiene {age}, más de {limit}.",
    ),
    "problem.future": Phrase(
        "The last proof of {subject} is dated in the future.", "La última prueba de {subject} tiene fecha futura."
    ),
    "problem.damaged": Phrase(
        "The database of {subject} is damaged: nothing is pruned.",
        "La base {subject} está dañada: no se elimina ninguna copia.",
    ),
    "problem.shrunk": Phrase(
        "The database of {subject} has shrunk: nothing is pruned until you accept it.",
        "La base {subject} se ha reducido: no se elimina ninguna copia hasta que usted lo acepte.",
    ),
    "problem.unreadable": Phrase(
        "The database of {subject} can no longer be read: nothing is pruned.",
        "La base {subject} ya no se puede leer: no se elimina ninguna copia.",
    ),
    "problem.missing": Phrase(
        "The database of {subject} is missing: no backup can be made.",
        "Falta la base {subject}: no se puede hacer ninguna copia.",
    ),
    "problem.unusable": Phrase(
        "The database of {subject} cannot be backed up in its current state.",
        "La base {subject} no se puede copiar en su estado actual.",
    ),
    "problem.failed": Phrase(
        "The {task} of {subject} has failed for {age} (runs that failed: {runs}).",
        "Falla {task} de {subject} desde hace {age} (ejecuciones fallidas: {runs}).",
    ),
    "problem.generation": Phrase(
        "Generation {reference} is damaged and no longer counts.", "La copia {reference} está dañada y ya no cuenta."
    ),
    "problem.manifest": Phrase(
        "Generation {reference} does not count: its manifest cannot be used.",
        "La copia {reference} no cuenta: su manifiesto no se puede usar.",
    ),
    "problem.archive": Phrase(
        "Generation {reference} does not count: its archive is gone.",
        "La copia {reference} no cuenta: falta su archivo.",
    ),
    "problem.catalog": Phrase(
        "The catalog cannot be used: how the last runs ended is not known.",
        "No se puede usar el catálogo: no se sabe cómo terminaron las últimas ejecuciones.",
    ),
    "problem.store": Phrase(
        "The directory of the backups cannot be read.", "No se puede leer el directorio de las copias."
    ),
    "unheard.messages": Phrase(
        "Messages that no channel has taken yet: {count}.", "Mensajes que ningún canal aceptó aún: {count}."
    ),
    "unheard.ping": Phrase(
        "A monitor did not take the last ping: {ping}.", "Un monitor no aceptó el último aviso: {ping}."
    ),
    "advice.unheard": Phrase(
        "`backupd notify` says why; `backupd notify --test` tries it again.",
        "`backupd notify` dice por qué; `backupd notify --test` lo intenta de nuevo.",
    ),
    "advice.backup": Phrase(
        "`backupd backup` makes one now, and says what is wrong.", "`backupd backup` hace una ahora y dice qué falla."
    ),
    "advice.replicate": Phrase(
        "`backupd doctor` tries login, host key and rights there; `backupd replicate` sends now.",
        "`backupd doctor` prueba acceso, clave y permisos allí; `backupd replicate` envía ahora.",
    ),
    "advice.drill": Phrase(
        "`backupd drill` rehearses a restore now, and says what is wrong.",
        "`backupd drill` ensaya una restauración ahora y dice qué falla.",
    ),
    "advice.future": Phrase(
        "Check the clock of this host (NTP); the next success after that ends it.",
        "Revise el reloj de este servidor (NTP); el siguiente éxito lo resuelve.",
    ),
    "advice.damaged": Phrase(
        "The app's own database is damaged: restore a good generation (`backupd list`), or repair it.",
        "La base de la aplicación está dañada: restaure una copia buena (`backupd list`) o repárela.",
    ),
    "advice.shrunk": Phrase(
        "If the loss was meant: `backupd prune --unfreeze`. Else restore the last good generation.",
        "Si la pérdida es intencional: `backupd prune --unfreeze`. Si no, restaure la última copia buena.",
    ),
    "advice.unreadable": Phrase(
        "If that was meant: `backupd prune --unfreeze`. Else restore the last good generation.",
        "Si es intencional: `backupd prune --unfreeze`. Si no, restaure la última copia buena.",
    ),
    "advice.missing": Phrase("Is its volume mounted?", "¿Está montado su volumen?"),
    "advice.unusable": Phrase("`backupd doctor` says what is in the way.", "`backupd doctor` dice qué lo impide."),
    "advice.restore": Phrase(
        "To restore it, stop the app: `{command}` (docs/runbook.md).",
        "Para restaurarla, pare la aplicación: `{command}` (docs/runbook.es.md).",
    ),
    "advice.generation": Phrase(
        "Look at the disk (`dmesg`); `backupd verify --all` reads every copy again.",
        "Revise el disco (`dmesg`); `backupd verify --all` vuelve a leer todas las copias.",
    ),
    "advice.manifest": Phrase(
        "If `gunzip -t` finds its archive intact, copy it elsewhere; then run `backupd remove {reference}`.",
        "Si `gunzip -t` encuentra su archivo intacto, cópielo a otro lugar; después: `backupd remove {reference}`.",
    ),
    "advice.archive": Phrase(
        "Put the archive back, or run `backupd remove {reference}`.",
        "Devuelva el archivo a su sitio, o ejecute `backupd remove {reference}`.",
    ),
    "advice.store": Phrase(
        "Check mount, owner and rights of `backups_dir`; `backupd doctor` says more.",
        "Revise montaje, dueño y permisos de `backups_dir`; `backupd doctor` dice más.",
    ),
    "unread.store": Phrase(
        "The directory of the backups cannot be read: what it holds is not shown.",
        "No se puede leer el directorio de las copias: no se muestra su contenido.",
    ),
    "unread.catalog": Phrase(
        "The catalog cannot be used: past runs, drills and copies elsewhere are not shown. Backups go on.",
        "No se puede usar el catálogo: no se muestran ejecuciones, ensayos ni copias externas. Las copias continúan.",
    ),
    "unread.log": Phrase("`backup.log` cannot be read.", "No se puede leer `backup.log`."),
    "advice.unread.store": Phrase(
        "Check mount, owner and rights of `backups_dir`.", "Revise montaje, dueño y permisos de `backups_dir`."
    ),
    "advice.catalog": Phrase(
        "`backupd catalog rebuild` makes a new one from the manifests.",
        "`backupd catalog rebuild` hace uno nuevo a partir de los manifiestos.",
    ),
    "advice.unread.catalog": Phrase(
        "`backupd catalog rebuild` makes it anew from the manifests.",
        "`backupd catalog rebuild` lo rehace a partir de los manifiestos.",
    ),
    "advice.unread.log": Phrase("Check its owner and rights.", "Revise su dueño y sus permisos."),
    "advice.prune": Phrase("`backupd prune` tries again now.", "`backupd prune` lo intenta de nuevo ahora."),
    "advice.scrub": Phrase(
        "`backupd verify --all` reads every copy again.", "`backupd verify --all` vuelve a leer todas las copias."
    ),
}
_HISTORY: Final = {
    "source": Phrase("Source", "Base"),
    "calendar": Phrase("The last 12 months", "Los últimos 12 meses"),
    "calendar.summary": Phrase(
        "Calendar of {source} from {first} to {last}: {verified} days verified, {degraded} degraded, {failed} failed, "
        "{missed} missed.",
        "Calendario de {source} del {first} al {last}: {verified} días verificados, {degraded} con avisos, {failed} "
        "fallidos, {missed} omitidos.",
    ),
    "day.verified": Phrase("verified", "verificado"),
    "day.degraded": Phrase("degraded", "con avisos"),
    "day.failed": Phrase("failed", "fallido"),
    "day.missed": Phrase("missed", "omitido"),
    "day.none": Phrase("nothing due", "nada previsto"),
    "day.runs": Phrase("{failed} of {runs} runs failed", "fallaron {failed} de {runs} ejecuciones"),
    "days.other": Phrase("Days that were not verified: {count}", "Días no verificados: {count}"),
    "days.more": Phrase("and {count} earlier ones", "y {count} anteriores"),
    "weekday.0": Phrase("Mon", "lun"),
    "weekday.2": Phrase("Wed", "mié"),
    "weekday.4": Phrase("Fri", "vie"),
    "size": Phrase("Size", "Tamaño"),
    "duration": Phrase("Duration of a backup", "Duración de la copia"),
    "chart.database": Phrase("database", "base de datos"),
    "chart.archive": Phrase("archive", "archivo"),
    "chart.size-summary": Phrase(
        "Size of {source} from {first} to {last}: the database last {snapshot}, its archive {archive}.",
        "Tamaño de {source} del {first} al {last}: la base al final {snapshot}, su archivo {archive}.",
    ),
    "chart.duration-summary": Phrase(
        "Duration of the backups of {source} from {first} to {last}: last {duration}.",
        "Duración de las copias de {source} del {first} al {last}: la última {duration}.",
    ),
    "chart.none": Phrase("Nothing to draw yet.", "Aún no hay nada que dibujar."),
}
_GENERATIONS: Final = {
    "generations": Phrase("Generations", "Copias guardadas"),
    "generations.none": Phrase("None yet.", "Ninguna aún."),
    "generations.count": Phrase("{count} in all, {size}", "{count} en total, {size}"),
    "generation": Phrase("generation", "copia"),
    "kept-for": Phrase("kept for", "se conserva por"),
    "copies": Phrase("copies at", "lugares"),
    "size-column": Phrase("size", "tamaño"),
    "goes": Phrase("goes with the next prune", "se elimina en la próxima purga"),
    "verification.full": Phrase("verified", "verificada"),
    "verification.structural": Phrase("verified by structure", "verificada en su estructura"),
    "verification.opaque": Phrase("encrypted, digest verified", "cifrada, resumen verificado"),
    "verification.corrupt": Phrase("damaged", "dañada"),
    "rule.last": Phrase("newest", "más reciente"),
    "rule.within": Phrase("within", "dentro de"),
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
    "dated in the future": Phrase("dated in the future", "con fecha futura"),
    "frozen: corrupt": Phrase(
        "frozen: the source is damaged or unreadable", "retenida: la base está dañada o es ilegible"
    ),
    "frozen: shrink": Phrase("frozen: the source has shrunk", "retenida: la base se ha reducido"),
    NOT_CONFIGURED: Phrase("source not configured", "base no configurada"),
    HOLDS_UNREADABLE: Phrase("not known: the holds cannot be read", "desconocido: no se pueden leer las retenciones"),
}
_REST: Final = {
    "drill": Phrase("Last restore drill", "Último ensayo de restauración"),
    "drill.none": Phrase(
        "No restore was rehearsed yet. `backupd drill` rehearses one now.",
        "Aún no se ha ensayado ninguna restauración. `backupd drill` ensaya una ahora.",
    ),
    "drill.recovered": Phrase("recovered in {duration}", "recuperada en {duration}"),
    "drill.failed": Phrase("failed after {duration}", "falló a los {duration}"),
    "drill.unfinished": Phrase("not finished", "sin terminar"),
    "drill.from": Phrase("{subject} from {store}, {at}", "{subject} desde {store}, {at}"),
    "drill.of": Phrase("{subject}, {at}", "{subject}, {at}"),
    "drill.before": Phrase("Before that", "Anteriores"),
    "replicas": Phrase("Replicas", "Réplicas"),
    "replica.holds": Phrase("{count} generations, last sent {at}", "{count} copias, último envío {at}"),
    "disk": Phrase("Disk", "Disco"),
    "disk.summary": Phrase(
        "Of {total}: {stored} backups, {other} others, {free} free.",
        "De {total}: {stored} copias, {other} otros, {free} libres.",
    ),
    "disk.stored": Phrase("backups {size}", "copias {size}"),
    "disk.other": Phrase("others {size}", "otros {size}"),
    "disk.free": Phrase("free {size}", "libre {size}"),
    "disk.unknown": Phrase("Not known.", "Desconocido."),
    "log": Phrase("Last log lines", "Últimas líneas del registro"),
    "log.none": Phrase("None yet.", "Ninguna aún."),
    "sources.more": Phrase(
        "Further sources, in /api/status only: {names}", "Otras bases, solo en /api/status: {names}"
    ),
    "task.backup": Phrase("backup", "la copia"),
    "task.replicate": Phrase("replication", "el envío"),
    "task.drill": Phrase("restore drill", "el ensayo"),
    "task.prune": Phrase("prune", "la purga"),
    "task.scrub": Phrase("scrub", "la revisión"),
}
TRANSLATIONS: Final[Mapping[str, Phrase]] = {
    **_PAGE,
    **_ERRORS,
    **_STAGES,
    **_PROOFS,
    **_PROBLEMS,
    **_HISTORY,
    **_GENERATIONS,
    **_REST,
}


def choose_language(accept_language: str) -> Language:
    """Return the language of ours that an Accept-Language header (RFC 9110 §12.5.4) likes best; English by default."""
    best: Language = LANGUAGES[0]
    best_quality = 0.0
    for part in accept_language[:_MOST_CHARACTERS].split(","):
        tag, _, parameters = part.partition(";")
        likes = quality(parameters)
        wanted = tag.strip().lower().partition("-")[0]
        for language in LANGUAGES:
            if likes > best_quality and wanted in (language, "*"):
                best, best_quality = language, likes
    return best


def quality(parameters: str) -> float:
    """Return how much something is wanted, 0 to 1, by what stands behind it (RFC 9110 §12.4.2); 0 for nonsense."""
    name, _, value = parameters.strip().partition("=")
    if not name.strip():
        return 1.0
    try:
        found = float(value)
    except ValueError:
        return 0.0
    return found if name.strip().lower() == "q" and 0 <= found <= 1 else 0.0
