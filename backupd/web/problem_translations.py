"""The texts of the page on problems, in each language: the state in a sentence, what is wrong, and what to do."""

from collections.abc import Mapping
from typing import Final, NamedTuple


class Phrase(NamedTuple):
    """One text; its placeholders have the same names in each language."""

    en: str
    es: str


PROBLEMS: Final[Mapping[str, Phrase]] = {
    # The state in one sentence: what is wrong first of all.
    "state.more": Phrase("· {count} more below", "· {count} más abajo"),
    "state.store": Phrase("The backups cannot be read", "No se pueden leer las copias"),
    "state.catalog": Phrase(
        "The results of the last runs are unknown", "Se desconocen los resultados de las últimas ejecuciones"
    ),
    "state.missing": Phrase("The database of {subject} is missing", "Falta la base {subject}"),
    "state.unusable": Phrase("The database of {subject} cannot be backed up", "La base {subject} no se puede copiar"),
    "state.damaged": Phrase("The database of {subject} is damaged", "La base {subject} está dañada"),
    "state.unreadable": Phrase(
        "The database of {subject} can no longer be read", "La base {subject} ya no se puede leer"
    ),
    "state.shrunk": Phrase("The database of {subject} has shrunk", "La base {subject} se ha reducido"),
    "state.missing.files": Phrase("The directory of {subject} is missing", "Falta el directorio de {subject}"),
    "state.unusable.files": Phrase(
        "The directory of {subject} cannot be backed up", "El directorio de {subject} no se puede copiar"
    ),
    "state.damaged.files": Phrase("The directory of {subject} is damaged", "El directorio de {subject} está dañado"),
    "state.unreadable.files": Phrase(
        "The directory of {subject} can no longer be read", "El directorio de {subject} ya no se puede leer"
    ),
    "state.shrunk.files": Phrase("The directory of {subject} has shrunk", "El directorio de {subject} se ha reducido"),
    "state.never.backup": Phrase("There is no backup of {subject} yet", "Aún no hay ninguna copia de {subject}"),
    "state.never.replicate": Phrase("There is no off-site copy yet", "Aún no hay ninguna copia externa"),
    "state.never.drill": Phrase("No restore has been rehearsed yet", "Aún no se ha ensayado ninguna restauración"),
    "state.future": Phrase("A clock shows or showed a wrong time", "Un reloj marca o marcó una hora incorrecta"),
    "state.late.backup": Phrase(
        "No new backup of {subject} for {age}", "Sin copia nueva de {subject} desde hace {age}"
    ),
    "state.late.replicate": Phrase("No off-site copy for {age}", "Sin copia externa desde hace {age}"),
    "state.late.drill": Phrase("No restore rehearsed for {age}", "Sin ensayo de restauración desde hace {age}"),
    "state.failed.tonight": Phrase("Tonight's backup of {subject} failed", "La copia de {subject} de esta noche falló"),
    "state.failed.last-night": Phrase(
        "Last night's backup of {subject} failed", "La copia de {subject} de anoche falló"
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
    "problem.damaged.files": Phrase(
        "The directory of {subject} is damaged; pruning is on hold.",
        "El directorio de {subject} está dañado: no se elimina ninguna copia.",
    ),
    "problem.shrunk.files": Phrase(
        "The directory of {subject} has shrunk; pruning is on hold until an operator accepts it.",
        "El directorio de {subject} se ha reducido: no se elimina ninguna copia hasta que usted lo acepte.",
    ),
    "problem.unreadable.files": Phrase(
        "The directory of {subject} can no longer be read; pruning is on hold.",
        "El directorio de {subject} ya no se puede leer: no se elimina ninguna copia.",
    ),
    "problem.missing.files": Phrase(
        "The directory of {subject} is missing: it cannot be backed up.",
        "Falta el directorio de {subject}: no se puede hacer ninguna copia.",
    ),
    "problem.unusable.files": Phrase(
        "The directory of {subject} cannot be backed up in its current state.",
        "El directorio de {subject} no se puede copiar en su estado actual.",
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
    "advice.damaged.files": Phrase(
        "The live files of the app are damaged: restore them, or repair them.",
        "Los archivos en uso están dañados: restáurelos o repárelos.",
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
    "advice.restore.files": Phrase(
        "To restore it, stop the app: `{command}`.",
        "Para restaurarlo, pare la aplicación: `{command}`.",
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
}
