"""The Spanish of the hints of a deploy's steps, by clause, as in `hint_translations`."""

from collections.abc import Mapping
from typing import Final

GATE_HINTS: Final[Mapping[str, str]] = {
    # The commit, and the verdict of another CI.
    "check forgejo_url": "revise forgejo_url",
    "it may lead to a login page or to another service": (
        "puede llevar a una página de inicio de sesión o a otro servicio"
    ),
    "deploy again": "vuelva a desplegar",
    "if it happens again": "si ocurre de nuevo",
    "delete the repository archives in the administration of that server": (
        "borre los archivos de repositorios en la administración de ese servidor"
    ),
    "tag a commit": "etiquete un commit",
    "mend it and push again": "corríjalo y vuelva a hacer push",
    "run that CI again": "vuelva a ejecutar esa CI",
    "check that it runs for this commit": "compruebe que se ejecuta para este commit",
    "the names in status_contexts": "los nombres en status_contexts",
    "status_timeout_s": "status_timeout_s",
    "that the server is up and reachable from the gate": "que el servidor funcione y se pueda acceder desde el control",
    "remove large files from the repository": "quite los archivos grandes del repositorio",
    "set caprover_webhook": "defina caprover_webhook",
    "check forgejo_token": "revise forgejo_token",
    "it needs the scope write:repository": "necesita el permiso write:repository",
    "check repository and forgejo_token": "revise repository y forgejo_token",
    "whose user must be able to read it": "cuyo usuario debe poder leerlo",
    "the commit may be gone": "es posible que el commit ya no exista",
    "look at the log of that server": "revise el registro de ese servidor",
    "push again": "vuelva a hacer push",
    "check what was pushed": "revise lo que se subió",
    "look at that server": "revise ese servidor",
    "remove it from the repository": "quítelo del repositorio",
    "with which CapRover fetches the branch itself": "con el que CapRover descarga la rama por sí mismo",
    "set gate_dir to a larger disk": "defina gate_dir en un disco mayor",
    "check gate_dir": "revise gate_dir",
    # The tests.
    "set another test_user": "defina otro test_user",
    "run its container as root with these capabilities (cap_add)": (
        "ejecute su contenedor como root con estas capacidades (cap_add)"
    ),
    "use wait_for_status in place of tests": "use wait_for_status en lugar de las pruebas",
    "restart the gate": "reinicie el control",
    "look at the log of the host": "revise el registro del servidor",
    "remove files of the test_user there": "elimine ahí los archivos de test_user",
    "start the container of the gate again without them": "vuelva a iniciar el contenedor del control sin ellos",
    # The backup before a deploy, by backupd beside the app.
    "find out why": "averigüe la causa",
    "backupd prune --unfreeze accepts the database as it is now": (
        "backupd prune --unfreeze acepta la base de datos tal como está"
    ),
    "ask again with the same key": "vuelva a pedirlo con la misma clave",
    "give it more time": "dele más tiempo",
    "if it stays so": "si sigue igual",
    "run backupd verify there": "ejecute ahí backupd verify",
    "check the URL": "revise la URL",
    "that the sidecar runs and can be reached from here": "que el sidecar funcione y se pueda acceder a él desde aquí",
    "give it the http.backup_token of the sidecar": "indique el http.backup_token del sidecar",
    "download_token for archives": "download_token para los archivos",
    "set http.actions = true there": "defina ahí http.actions = true",
    "with its token": "con su token",
    "and check the URL": "y revise la URL",
    "try again later": "inténtelo más tarde",
    "give one of the two": "indique solo uno de los dos",
    "one line": "una línea",
    "{} characters at most": "{} caracteres como máximo",
    "take another generation: backupd list": "use otra copia: backupd list",
    "run backupd verify": "ejecute backupd verify",
}
