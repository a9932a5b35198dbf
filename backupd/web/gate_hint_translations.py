"""The Spanish of the hints of a deploy's steps, by clause, as in `hint_translations`."""

from collections.abc import Mapping
from typing import Final

GATE_HINTS: Final[Mapping[str, str]] = {
    # The commit, and the verdict of another CI.
    "check forgejo_url": "revise forgejo_url",
    "it may lead to a login page or to another service": (
        "puede llevar a una página de inicio de sesión o a otro servicio"
    ),
    "redeliver the webhook in Forgejo": "reenvíe el webhook desde Forgejo",
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
    "see backup.log of that backupd": "vea backup.log de ese backupd",
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
    "write it as http://HOST:PORT or https://HOST": "escríbala como http://HOST:PUERTO o https://HOST",
    "without a password": "sin contraseña",
    "set download_token": "defina download_token",
    "rehearse = false": "rehearse = false",
    "run backupd verify in the sidecar": "ejecute backupd verify en el sidecar",
    "name the one to rehearse with in sources": "indique en sources la base con la que ensayar",
    # How the tests ended.
    "read their output: a test may wait for something": "lea su salida: una prueba puede estar esperando algo",
    "raise test_timeout_s": "aumente test_timeout_s",
    "change them to write less": "cámbielas para que escriban menos",
    "give the gate a larger disk": "dé al control un disco mayor",
    "{} is mounted noexec: if they run programs of the tree": (
        "{} está montado con noexec: si ejecutan programas del commit"
    ),
    "mount it with exec (/tmp:exec)": "móntelo con exec (/tmp:exec)",
    "the container may lack memory": "puede que al contenedor le falte memoria",
    "give it more": "dele más",
    "run fewer tests at a time": "ejecute menos pruebas a la vez",
    "a file became too long for the disk": "un archivo creció demasiado para el disco",
    "let the tests write less": "haga que las pruebas escriban menos",
    "the image of the gate may lack the program": "puede que a la imagen del control le falte el programa",
    "see docs/deploy-guard.md": "consulte docs/deploy-guard.md",
    "read their output": "lea su salida",
    "mend the app": "corrija la aplicación",
    # The delivery, and the app.
    "add captain-definition to the repository": "añada captain-definition al repositorio",
    "mind export-ignore in .gitattributes": "revise export-ignore en .gitattributes",
    "set caprover_url, caprover_app and caprover_token": "defina caprover_url, caprover_app y caprover_token",
    "which deliver the tested commit": "que entregan el commit probado",
    "copy the URL of the webhook from the app in CapRover again (Deployment, Method 3)": (
        "copie de nuevo la URL del webhook de la aplicación en CapRover (Deployment, Method 3)"
    ),
    "check caprover_url": "revise caprover_url",
    "if CapRover stays busy": "si CapRover sigue ocupado",
    "look for an operation that hangs there": "busque ahí una operación bloqueada",
    "set the address to which it redirects, with https": "defina la dirección a la que redirige, con https",
    "the proxy before it refuses so large an upload": "el proxy que hay delante rechaza un envío tan grande",
    "raise its limit (client_max_body_size)": "aumente su límite (client_max_body_size)",
    "which begins like https://captain.": "que empieza como https://captain.",
    "look at the app in CapRover (Deployment)": "vea la aplicación en CapRover (Deployment)",
    "if it does not build": "si no se construye",
    "check caprover_app and caprover_token": "revise caprover_app y caprover_token",
    "CapRover shows the token at the app, Deployment, Method 1": (
        "CapRover muestra el token en la aplicación, Deployment, Method 1"
    ),
    "an unknown app gets the same answer": "una aplicación desconocida recibe la misma respuesta",
    "look at its build log and its log in CapRover": "revise su registro de construcción y su registro en CapRover",
    "let its health_url answer JSON with the field {}, which a build by CapRover gets from ARG CAPROVER_GIT_COMMIT_SHA "
    "in its Dockerfile": (
        "haga que su health_url responda JSON con el campo {}, que una construcción de CapRover recibe de ARG "
        "CAPROVER_GIT_COMMIT_SHA en su Dockerfile"
    ),
    "check version_field": "revise version_field",
    "that the build takes the version from CAPROVER_GIT_COMMIT_SHA": (
        "que la construcción tome la versión de CAPROVER_GIT_COMMIT_SHA"
    ),
    # The gate itself.
    "look in CapRover (Deployment) which version was built last": (
        "vea en CapRover (Deployment) qué versión se construyó la última vez"
    ),
    "to deploy this one": "para desplegar esta",
    "redeliver its push": "reenvíe su push",
    "report this with the log of the gate": "informe de esto con el registro del control",
    "use that version": "use esa versión",
    "move the directory away": "mueva el directorio a otro lugar",
    "after which old pushes could be deployed again": "tras lo cual podrían desplegarse de nuevo push antiguos",
}
