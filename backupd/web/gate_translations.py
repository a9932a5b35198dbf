"""The texts of the gate's page and messages, in each language; the parts between backticks are shown as code."""

from collections.abc import Mapping
from typing import Final

from backupd.web.problem_translations import Phrase

GATE: Final[Mapping[str, Phrase]] = {
    # The state in one sentence.
    "gate.none": Phrase("Ready: waiting for the first push", "Listo: a la espera del primer push"),
    "gate.all-deployed": Phrase(
        "The last deploy of every app succeeded", "El último despliegue de cada aplicación salió bien"
    ),
    "gate.state.waiting": Phrase("{gate}: {version} is being deployed", "{gate}: se está desplegando {version}"),
    "gate.state.running": Phrase("{gate}: {version} is being deployed", "{gate}: se está desplegando {version}"),
    "gate.state.deployed": Phrase("{gate}: {version} is in production", "{gate}: {version} está en producción"),
    "gate.state.stopped": Phrase(
        "{gate}: {version} was stopped, production is unchanged",
        "{gate}: {version} se detuvo, producción sigue igual",
    ),
    "gate.state.unhealthy": Phrase("{gate}: {version} did not come up", "{gate}: {version} no arrancó bien"),
    "gate.state.interrupted": Phrase(
        "{gate}: the deploy of {version} was interrupted", "{gate}: se interrumpió el despliegue de {version}"
    ),
    "sign.info": Phrase("in progress", "en curso"),
    # What to do.
    "gate.advice.stopped": Phrase(
        "Nothing reached production. Fix the cause, then push again, or redeliver the webhook in Forgejo.",
        "Nada llegó a producción. Corrija la causa y vuelva a hacer push, o reenvíe el webhook desde Forgejo.",
    ),
    "gate.advice.unhealthy": Phrase(
        "Look at the log of the app. How to go back is shown with the deploy below.",
        "Revise el registro de la aplicación. Cómo volver atrás se indica junto al despliegue, más abajo.",
    ),
    "gate.advice.interrupted": Phrase(
        "The gate ended during a step that it cannot repeat by itself. Check which version the app reports, then push "
        "again, or redeliver the webhook in Forgejo.",
        "El control se detuvo durante un paso que no puede repetir por sí solo. Compruebe qué versión indica la "
        "aplicación y vuelva a hacer push, o reenvíe el webhook desde Forgejo.",
    ),
    # How to go back.
    "back": Phrase("How to go back", "Cómo volver atrás"),
    "back.stop": Phrase(
        "In CapRover, {app} → App Configs: Instance Count 0, even if the old version answers.",
        "En CapRover, {app} → App Configs: Instance Count 0, aunque responda la versión anterior.",
    ),
    "back.restore": Phrase(
        "If {version} changed the data, in the container of backupd beside the app: `backupd restore {generation}`. "
        "What was written since is not in it; the replaced database stays beside it.",
        "Si {version} cambió los datos, en el contenedor de backupd junto a la aplicación: `backupd restore "
        "{generation}`. No contiene lo escrito desde entonces; la base reemplazada queda al lado.",
    ),
    "back.no-backup": Phrase(
        "No backup was taken for this deploy: if {version} changed the data, find an earlier one with `backupd list`.",
        "No se hizo ninguna copia para este despliegue: si {version} cambió los datos, busque una anterior con "
        "`backupd list`.",
    ),
    "back.version": Phrase(
        "{app} → Deployment → Version History: roll back to {version}, which does not start yet.",
        "{app} → Deployment → Version History: vuelva a {version}, que aún no arranca.",
    ),
    "back.start": Phrase("{app} → App Configs: Instance Count 1.", "{app} → App Configs: Instance Count 1."),
    "back.the-app": Phrase("the app", "la aplicación"),
    "back.version-before": Phrase("the version before", "la versión anterior"),
    "back.commit": Phrase("{version} (commit {commit})", "{version} (commit {commit})"),
    # A deploy.
    "deploys": Phrase("Last deploys", "Últimos despliegues"),
    "deploys.more": Phrase("{count} earlier ones, in /api/deploys only", "{count} anteriores, solo en /api/deploys"),
    "deploy.waiting": Phrase("waiting", "en espera"),
    "deploy.running": Phrase("running", "en curso"),
    "deploy.deployed": Phrase("deployed", "desplegado"),
    "deploy.stopped": Phrase("stopped, production is unchanged", "detenido, producción sigue igual"),
    "deploy.unhealthy": Phrase("did not come up", "no arrancó bien"),
    "deploy.superseded": Phrase("superseded by a newer push", "reemplazado por un push más reciente"),
    "deploy.interrupted": Phrase("interrupted", "interrumpido"),
    "deploy.pushed": Phrase("pushed by {pusher} to {ref}, {at}", "push de {pusher} a {ref}, {at}"),
    "deploy.took": Phrase("took {duration}", "tardó {duration}"),
    "deploy.since": Phrase("for {duration}", "desde hace {duration}"),
    "deploy.before": Phrase("before it: {version}", "antes: {version}"),
    "deploy.kept": Phrase("Backup kept for it", "Copia conservada para este despliegue"),
    "deploy.commit": Phrase("commit", "commit"),
    "deploy.steps": Phrase("Steps of {version}", "Pasos de {version}"),
    "deploy.hint": Phrase("Hint: {hint}", "Sugerencia: {hint}"),
    "deploy.output": Phrase("End of the tests' output", "Final de la salida de las pruebas"),
    "step.backup": Phrase("backup", "copia"),
    "step.fetch": Phrase("commit", "commit"),
    "step.status": Phrase("CI status", "estado de CI"),
    "step.tests": Phrase("tests", "pruebas"),
    "step.deliver": Phrase("delivery", "entrega"),
    "step.health": Phrase("app health", "salud de la aplicación"),
    "step.state.running": Phrase("running", "en curso"),
    "step.state.passed": Phrase("passed", "superado"),
    "step.state.failed": Phrase("failed", "falló"),
    # What is set.
    "gates.read-only": Phrase("Read-only: a push starts a deploy.", "Solo lectura: un push inicia un despliegue."),
    "gates.more": Phrase("More apps, in /api/deploys only: {names}", "Más aplicaciones, solo en /api/deploys: {names}"),
    "set": Phrase("Settings", "Configuración"),
    "set.repository": Phrase("Repository", "Repositorio"),
    "set.refs": Phrase("Refs that deploy", "Refs que se despliegan"),
    "set.webhook": Phrase("Webhook", "Webhook"),
    "set.backup": Phrase("Backup before a deploy", "Copia antes de desplegar"),
    "set.backup.all": Phrase("all sources of {url}", "todas las bases de {url}"),
    "set.backup.some": Phrase("{sources} of {url}", "{sources} de {url}"),
    "set.backup.none": Phrase(
        "not set up: deploys have no backup to go back to (`sidecar_url`)",
        "sin configurar: los despliegues no tienen copia a la que volver (`sidecar_url`)",
    ),
    "set.status": Phrase("CI status", "Estado de CI"),
    "set.status.all": Phrase(
        "every check of the commit, within {limit}", "todas las comprobaciones del commit, en {limit} como máximo"
    ),
    "set.status.some": Phrase("{contexts}, within {limit}", "{contexts}, en {limit} como máximo"),
    "set.tests": Phrase("Tests", "Pruebas"),
    "set.tests.as": Phrase("as user {user}, within {limit}", "con el usuario {user}, en {limit} como máximo"),
    "set.tests.rehearse": Phrase("with a fresh copy of the data", "con una copia reciente de los datos"),
    "set.tests.none": Phrase(
        "not set up: nothing is tested before a deploy (`test_command`, `wait_for_status`)",
        "sin configurar: no se prueba nada antes de desplegar (`test_command`, `wait_for_status`)",
    ),
    "set.target": Phrase("Delivery", "Entrega"),
    "set.target.app": Phrase("the tested files to {app} at {url}", "los archivos probados a {app} en {url}"),
    "set.target.webhook": Phrase(
        "forwarded to the webhook of CapRover, which builds the head of its branch, not the tested commit",
        "reenvío al webhook de CapRover, que construye la cabeza de su rama y no el commit probado",
    ),
    "set.app": Phrase("App health", "Salud de la aplicación"),
    "set.app.url": Phrase(
        "{url}, version in {field}, within {limit}", "{url}, versión en {field}, en {limit} como máximo"
    ),
    "set.app.none": Phrase(
        "not set up: a delivery counts as deployed (`health_url`)",
        "sin configurar: una entrega cuenta como desplegada (`health_url`)",
    ),
    # How to connect the webhook.
    "connect": Phrase("Connect Forgejo", "Conectar Forgejo"),
    "connect.add": Phrase(
        "In Forgejo or Gitea, in {repository}: Settings → Webhooks → Add webhook.",
        "En Forgejo o Gitea, en {repository}: Configuración → Webhooks → Añadir webhook.",
    ),
    "connect.url": Phrase(
        "Target URL `http://GATE:8080{path}`, where GATE is the name by which Forgejo reaches this container; method "
        "POST; content type `application/json`.",
        "URL de destino `http://GATE:8080{path}`, donde GATE es el nombre con el que Forgejo llega a este contenedor; "
        "método POST; tipo de contenido `application/json`.",
    ),
    "connect.secret": Phrase(
        "Secret: the `secret` under `[gate.{gate}]`. Trigger: push events.",
        "Secreto: el valor de `secret` en `[gate.{gate}]`. Disparador: eventos push.",
    ),
    "connect.hosts": Phrase(
        "Forgejo refuses private addresses by default: in its app.ini, under `[webhook]`, set "
        "`ALLOWED_HOST_LIST = external, GATE`, and restart it.",
        "Forgejo rechaza de forma predeterminada las direcciones privadas: en su app.ini, en `[webhook]`, defina "
        "`ALLOWED_HOST_LIST = external, GATE` y reinícielo.",
    ),
    "connect.push": Phrase(
        "Push to {refs}: the deploy appears here.", "Haga push a {refs}: el despliegue aparece aquí."
    ),
}
