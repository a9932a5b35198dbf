"""The Spanish of what rooms below write as hints in English, by clause; `{}` stands for a path, a name or a number."""

from collections.abc import Mapping
from typing import Final

from backupd.web.gate_hint_translations import GATE_HINTS
from backupd.web.point_hint_translations import POINT_HINTS

HINTS: Final[Mapping[str, str]] = {
    # Damaged copies.
    "test the disk (smartctl)": "pruebe el disco (smartctl)",
    "test that disk (smartctl)": "pruebe ese disco (smartctl)",
    "test the disk (smartctl, dmesg)": "pruebe el disco (smartctl, dmesg)",
    "test the disk of that host": "pruebe el disco de ese servidor",
    "test the disk and the memory of that host": "pruebe el disco y la memoria de ese servidor",
    "the next replication sends it again": "la próxima replicación la envía de nuevo",
    "test this machine's memory (memtest)": "pruebe la memoria de esta máquina (memtest)",
    "use another copy": "use otra copia",
    "use another generation": "use otra copia",
    "use another generation or store": "use otra copia u otro almacén",
    "try another generation": "pruebe con otra copia",
    "gunzip unpacks any undamaged gzip file": "gunzip descomprime cualquier archivo gzip intacto",
    "gunzip and PRAGMA integrity_check can still check the archive of this one": (
        "gunzip y PRAGMA integrity_check aún pueden comprobar el archivo de esta"
    ),
    "this one from another store (backupd list)": "esta desde otro almacén (backupd list)",
    "send this one again (backupd replicate)": "envíe esta de nuevo (backupd replicate)",
    # The catalog.
    "try again": "inténtelo de nuevo",
    "try again in a minute": "inténtelo de nuevo en un minuto",
    "replace it with the catalog's file": "sustitúyalo por el archivo del catálogo",
    "remove it": "elimínelo",
    "the next backup creates a new catalog": "la próxima copia crea un catálogo nuevo",
    "the next backup creates one": "la próxima copia crea uno",
    "the next backup migrates it": "la próxima copia lo migra",
    "check backups_dir in the configuration": "revise backups_dir en la configuración",
    "move that database away": "mueva esa base de datos a otro lugar",
    "use the newer backupd again": "vuelva a usar el backupd más nuevo",
    "run `backupd catalog rebuild`": "ejecute `backupd catalog rebuild`",
    "run `backupd catalog rebuild`, which keeps the rows that this version can read": (
        "ejecute `backupd catalog rebuild`, que conserva las filas que esta versión puede leer"
    ),
    "it reads all manifests and keeps the readable rows of the old catalog": (
        "lee todos los manifiestos y conserva las filas legibles del catálogo anterior"
    ),
    "restart backupd": "reinicie backupd",
    "if that does not help": "si no basta",
    "another process holds it": "otro proceso lo tiene en uso",
    "if no other backupd runs": "si no se ejecuta otro backupd",
    "remove files from the file system of the catalog": "elimine archivos del sistema de archivos del catálogo",
    "it has no free inodes (df -i)": "no tiene inodos libres (df -i)",
    "check owner, mode and mount of the file and its directory": (
        "revise el propietario, los permisos y el montaje del archivo y de su directorio"
    ),
    "if those are right": "si están bien",
    "check the disk of the catalog (dmesg)": "revise el disco del catálogo (dmesg)",
    "if it has no errors": "si no tiene errores",
    "free some space on the file system of the catalog": "libere espacio en el sistema de archivos del catálogo",
    "if there is enough": "si hay suficiente",
    "check the disk (dmesg)": "revise el disco (dmesg)",
    'set one of last, hourly, daily, weekly, monthly, yearly to 1 or more, or within to "48h", and none below 0': (
        'dé a last, hourly, daily, weekly, monthly o yearly el valor 1 o más, o a within "48h", y a ninguno menos de 0'
    ),
    # The database and its path.
    "start the app": "inicie la app",
    "which creates it": "que la crea",
    "check that the right volume is mounted": "revise que esté montado el volumen correcto",
    "an encrypted one is not found": "una cifrada no se encuentra",
    "set BACKUPD_DATABASE (or path under [sources.NAME]) to the path of the database file itself, such as {}": (
        "ponga la ruta del archivo de la base en BACKUPD_DATABASE (o en path, bajo [sources.NAME]), por ejemplo {}"
    ),
    "set path to that of the database file itself": "ponga en path la ruta del archivo de la base",
    "if it was removed for good: name {} in exclude of [sources.{}] (BACKUPD_SOURCES__{}__EXCLUDE)": (
        "si se eliminó a propósito: nombre {} en exclude de [sources.{}] (BACKUPD_SOURCES__{}__EXCLUDE)"
    ),
    "name what is not needed in exclude": "nombre en exclude lo que no haga falta",
    "write a narrower pattern as path (docs/sources.md)": "escriba en path un patrón más estrecho (docs/sources.md)",
    "run the command again": "repita la orden",
    "the daemon looks again each minute": "el servicio vuelve a buscar cada minuto",
    "set drill.source (BACKUPD_DRILL__SOURCE) to the source whose database the app is checked on": (
        "ponga en drill.source (BACKUPD_DRILL__SOURCE) el origen con cuya base se comprueba la app"
    ),
    "check the path": "revise la ruta",
    "check the path and that the right volume is mounted": "revise la ruta y que esté montado el volumen correcto",
    "an unmounted one is an empty directory": "uno sin montar es un directorio vacío",
    "if the database is lost": "si la base se perdió",
    "backupd restore": "backupd restore",
    "if you made the link": "si usted creó el enlace",
    "configure the path that it leads to": "configure la ruta a la que lleva",
    "give it the owner of its target (chown -h)": "dele el propietario de su destino (chown -h)",
    "if you did not": "si no fue usted",
    "another user who can write to that directory did": "lo creó otro usuario que puede escribir en ese directorio",
    "mount the target of the link at the same path here": "monte el destino del enlace aquí en la misma ruta",
    "configure the path of the database itself": "configure la ruta de la propia base",
    "configure the path of the database file itself": "configure la ruta del propio archivo de la base",
    "give the path of the file itself": "indique la ruta del propio archivo",
    "remove that mount": "quite ese montaje",
    "remove the other names": "elimine los demás nombres",
    'set hard_link = "allow" if the app opens this path': 'defina hard_link = "allow" si la aplicación abre esta ruta',
    "restore the database if it was lost": "restaure la base si se perdió",
    "set allow_empty = true if it is empty on purpose": "defina allow_empty = true si está vacía a propósito",
    "if the database is meant to be empty": "si la base debe estar vacía",
    "set allow_empty = true for one backup": "defina allow_empty = true para una copia",
    "if it was a database before": "si antes era una base de datos",
    "its beginning is damaged": "su comienzo está dañado",
    "mount the directory of the database, not the file, for the app and for backupd": (
        "monte el directorio de la base, no el archivo, para la aplicación y para backupd"
    ),
    "-v {}:{} (Kubernetes: without subPath": "-v {}:{} (Kubernetes: sin subPath",
    "-v {}:{}, where the database is {}/{} (Kubernetes: without subPath": (
        "-v {}:{}, donde la base es {}/{} (Kubernetes: sin subPath"
    ),
    "see docs/sources.md)": "vea docs/sources.md)",
    "a hard link is also another name": "un enlace duro también es otro nombre",
    "keep the database in a named volume of the container engine": (
        "tenga la base en un volumen con nombre del motor de contenedores"
    ),
    "run backupd on the host of the app": "ejecute backupd en el servidor de la aplicación",
    'with network_fs = "allow" if both run on one kernel': 'con network_fs = "allow" si ambos usan el mismo núcleo',
    # Owners and rights.
    "{} belongs to a user that is not mapped here": "{} pertenece a un usuario que no tiene correspondencia aquí",
    "run backupd in the user namespace of the app": "ejecute backupd en el espacio de usuarios de la aplicación",
    "with Docker by the same daemon, with the same userns-remap or with --userns=host for both": (
        "con Docker, con el mismo demonio, con el mismo userns-remap o con --userns=host en ambos"
    ),
    "with Podman in the app's pod": "con Podman, en el pod de la aplicación",
    "with --userns=keep-id for both": "con --userns=keep-id en ambos",
    "with LXC": "con LXC",
    "map the id of the owner (lxc.idmap)": "asigne el id del propietario (lxc.idmap)",
    "run backupd as the user of the app (PUID)": "ejecute backupd como el usuario de la aplicación (PUID)",
    "run backupd as uid {} (PUID)": "ejecute backupd como uid {} (PUID)",
    "run backupd as the owner of the file (uid {})": "ejecute backupd como el propietario del archivo (uid {})",
    "run backupd as the owner of the file (PUID)": "ejecute backupd como el propietario del archivo (PUID)",
    "with its volume mounted writable": "con su volumen montado con escritura",
    "as root with the capability DAC_READ_SEARCH": "como root con la capacidad DAC_READ_SEARCH",
    "as root with the capabilities SETUID and SETGID": "como root con las capacidades SETUID y SETGID",
    "back up while the app has it open": "haga la copia mientras la aplicación la tiene abierta",
    "give it access (x) to every directory above it": "dele acceso (x) a todos los directorios superiores",
    "user {} lacks the rights to {}": "el usuario {} no tiene permisos sobre {}",
    "run as its owner (PUID=auto": "ejecútelo como su propietario (PUID=auto",
    "`stat -c %u:%g` shows it)": "`stat -c %u:%g` lo muestra)",
    "mount {} writable": "monte {} con escritura",
    "if it became read-only by itself": "si pasó por sí solo a solo lectura",
    "see dmesg": "vea dmesg",
    "check the path {}": "revise la ruta {}",
    "what is mounted there": "lo que está montado ahí",
    "the server behind the mount of {} does not answer": "el servidor del montaje de {} no responde",
    "check it": "revíselo",
    "mount it again": "móntelo de nuevo",
    "allow more open files (ulimit -n": "permita más archivos abiertos (ulimit -n",
    "docker run --ulimit nofile=1024)": "docker run --ulimit nofile=1024)",
    "check the disk of {} (dmesg)": "revise el disco de {} (dmesg)",
    "find out who put it there": "averigüe quién lo puso ahí",
    "then move it away (ls -la {})": "después muévalo a otro lugar (ls -la {})",
    "then move it away (ls -la )": "después muévalo a otro lugar (ls -la)",
    # Locks, journals and writers of the app.
    "run the backup again": "repita la copia",
    "run it again": "ejecútelo de nuevo",
    "wait until it ends": "espere a que termine",
    "start the app, which rolls it back": "inicie la aplicación, que la deshace",
    "start the app, which commits or rolls back that transaction": (
        "inicie la aplicación, que confirma o deshace esa transacción"
    ),
    'set hot_journal = "copy"': 'defina hot_journal = "copy"',
    "mount the directory of the super-journal here at the same path ({})": (
        "monte aquí el directorio del super-journal en la misma ruta ({})"
    ),
    "back up while the app is stopped": "haga la copia con la aplicación parada",
    "configure a rollback journal (PRAGMA journal_mode=DELETE)": (
        "configure un journal de reversión (PRAGMA journal_mode=DELETE)"
    ),
    "move it away while the app is stopped": "muévalo a otro lugar con la aplicación parada",
    "check the database (PRAGMA integrity_check)": "compruebe la base (PRAGMA integrity_check)",
    "remove it while the app is stopped": "elimínelo con la aplicación parada",
    "remove that directory only while the app is stopped": "elimine ese directorio solo con la aplicación parada",
    'configure the app to use SQLite\'s own locks (the VFS "unix": no vfs=unix-dotfile, unix-none or nolock=1 in its '
    "database URL)": (
        'configure la aplicación para que use los bloqueos de SQLite (el VFS "unix": sin vfs=unix-dotfile, unix-none '
        "ni nolock=1 en la URL de su base)"
    ),
    "stop it during backups and restores": "párela durante las copias y las restauraciones",
    "set a journal mode of SQLite (WAL or DELETE) in its engine": (
        "defina en su motor un modo de journal de SQLite (WAL o DELETE)"
    ),
    "back it up with its own tools": "cópiela con sus propias herramientas",
    "back up when the app writes less": "haga la copia cuando la aplicación escriba menos",
    "to a faster disk": "en un disco más rápido",
    "raise timeout_s": "aumente timeout_s",
    "if they are slow": "si son lentos",
    'use method = "backup"': 'use method = "backup"',
    "a row or the schema of the database is extremely large": "una fila o el esquema de la base es enorme",
    "restore the last verified generation (backupd list)": "restaure la última copia verificada (backupd list)",
    "try sqlite3 .recover": "pruebe sqlite3 .recover",
    "sqlite3 .recover can read what is left": "sqlite3 .recover puede leer lo que queda",
    "check that the disks and mounts of the database and of the backups respond (dmesg)": (
        "compruebe que responden los discos y montajes de la base y de las copias (dmesg)"
    ),
    "find out which process writes to that directory (.backupd/staging, or that of the database)": (
        "averigüe qué proceso escribe en ese directorio (.backupd/staging, o el de la base)"
    ),
    "restore {}": "restaure {}",
    "inspect the copy in {}": "examine la copia en {}",
    "restore a good generation": "restaure una copia buena",
    "repair the database (sqlite3 .recover)": "repare la base (sqlite3 .recover)",
    "if this is intended": "si es intencionado",
    "backupd prune --unfreeze lets the next backup be published": (
        "backupd prune --unfreeze permite publicar la próxima copia"
    ),
    # Space, memory, processes.
    "free space": "libere espacio",
    "free space there": "libere espacio ahí",
    "free space on the file system": "libere espacio en el sistema de archivos",
    "free space on the file system of {}": "libere espacio en el sistema de archivos de {}",
    "the app will fail soon as well": "la aplicación también fallará pronto",
    "remove files there (df -i {})": "elimine archivos ahí (df -i {})",
    "raise the quota (repquota -s)": "amplíe la cuota (repquota -s)",
    "move backups_dir": "mueva backups_dir",
    "move backups_dir to a larger disk": "mueva backups_dir a un disco mayor",
    "lower space.reserve": "reduzca space.reserve",
    "use a larger disk": "use un disco mayor",
    "set TMPDIR to a directory with more room": "defina TMPDIR con un directorio con más espacio",
    "set backups_dir": "defina backups_dir",
    "out of memory? dmesg says so": "¿falta memoria? dmesg lo indica",
    "report this with backup.log": "comunique este fallo junto con backup.log",
    "raise the limit of processes and threads of the container (docker run --pids-limit 256; 64 is enough)": (
        "amplíe el límite de procesos e hilos del contenedor (docker run --pids-limit 256; 64 bastan)"
    ),
    "raise the limit of processes and threads of the container (docker run --pids-limit 256; 64 is enough) or of the "
    "user (RLIMIT_NPROC: docker run --ulimit nproc=1024)": (
        "amplíe el límite de procesos e hilos del contenedor (docker run --pids-limit 256; 64 bastan) o del usuario "
        "(RLIMIT_NPROC: docker run --ulimit nproc=1024)"
    ),
    "raise the limit of processes and threads of the container (docker run --pids-limit 256; 64 is enough) or of the "
    "user (RLIMIT_NPROC, here {}: docker run --ulimit nproc=1024)": (
        "amplíe el límite de procesos e hilos del contenedor (docker run --pids-limit 256; 64 bastan) o del usuario "
        "(RLIMIT_NPROC, aquí {}: docker run --ulimit nproc=1024)"
    ),
    "give it more memory": "dele más memoria",
    "{} of {} are in use": "{} de {} están en uso",
    "let the seccomp profile allow clone3": "haga que el perfil de seccomp permita clone3",
    "update Docker (20.10.10 or later) and libseccomp": "actualice Docker (20.10.10 o posterior) y libseccomp",
    "docker run --security-opt seccomp=unconfined": "docker run --security-opt seccomp=unconfined",
    "find out what killed it (too little memory, a power cut)": (
        "averigüe qué lo terminó (falta de memoria, un corte de luz)"
    ),
    "see the events before it in backup.log": "vea los eventos anteriores en backup.log",
    "a hung disk or mount is likely": "es probable que un disco o montaje no responda",
    "see the log": "vea el registro",
    "see the system's log": "vea el registro del sistema",
    # The directory of the backups, and replicas.
    "move it away": "muévalo a otro lugar",
    "make it": "créelo",
    "mount the volume that belongs there": "monte el volumen que corresponde ahí",
    "make the directory that it points to": "cree el directorio al que apunta",
    "mount it": "móntelo",
    "make it there": "créelo allí",
    "correct the path in url": "corrija la ruta en url",
    "let the account there read and write the directory of the replica (owner and mode)": (
        "permita que la cuenta de allí lea y escriba el directorio de la réplica (propietario y permisos)"
    ),
    "check free space, inodes, quota and rights there": (
        "revise allí el espacio libre, los inodos, la cuota y los permisos"
    ),
    "backupd doctor tries them": "backupd doctor los prueba",
    "check that host and the network": "revise ese servidor y la red",
    "give each sender its own directory on the replica": "dé a cada emisor su propio directorio en la réplica",
    "move that generation away": "mueva esa copia a otro lugar",
    "give this app a directory of its own in the url of {}": "dele un directorio propio en la url de {}",
    "give each app a directory of its own in the url of {}": "dé a cada una un directorio propio en la url de {}",
    "its source another name": "a su base otro nombre",
    "if this machine replaces one that was lost": "si esta máquina sustituye a una que se perdió",
    "if these are machines of this app, and certainly lost": (
        "si son máquinas de esta aplicación, perdidas con toda seguridad"
    ),
    "backupd replicate --to {} --adopt": "backupd replicate --to {} --adopt",
    "backupd replicate --to {} --adopt --force": "backupd replicate --to {} --adopt --force",
    "choose another generation ({})": "elija otra copia ({})",
    "if gunzip -t {}{} finds it intact": "si gunzip -t {}{} lo encuentra intacto",
    "copy it elsewhere": "cópielo a otro lugar",
    "then run backupd remove {}": "después ejecute backupd remove {}",
    "then run backupd remove {} --store {}": "después ejecute backupd remove {} --store {}",
    "put {}{} back": "devuelva {}{} a su sitio",
    "run backupd remove {}": "ejecute backupd remove {}",
    "run backupd remove {} --store {}": "ejecute backupd remove {} --store {}",
    "check owner and mode of {}.manifest.json": "revise el propietario y los permisos de {}.manifest.json",
    "check owner and mode of {}.manifest.json at {}": "revise el propietario y los permisos de {}.manifest.json en {}",
    "its disk": "su disco",
    "find out what removed it": "averigüe qué la eliminó",
    "find out what removed it at {}": "averigüe qué la eliminó en {}",
    "the next replication sends it again if it is still here": (
        "la próxima replicación la envía de nuevo si aún está aquí"
    ),
    "find out what removes files there": "averigüe qué elimina archivos allí",
    "nothing was pruned": "no se eliminó ninguna copia antigua",
    "find out which of the two copies was changed": "averigüe cuál de las dos copias se cambió",
    "who can write": "quién puede escribir",
    "who can write at {}": "quién puede escribir en {}",
    "if it is the local one": "si es la local",
    "restore with an empty backups_dir (BACKUPD_BACKUPS_DIR)": (
        "restaure con un backups_dir vacío (BACKUPD_BACKUPS_DIR)"
    ),
    "name it by its id": "nómbrela por su ID",
    "where two apps share this directory": "si dos aplicaciones comparten este directorio",
    "give each app a backups_dir of its own": "dé a cada aplicación su propio backups_dir",
    "see backupd list": "vea backupd list",
    "--store NAME looks for it at a replica": "--store NAME la busca en una réplica",
    "take a backup first (backupd backup)": "haga antes una copia (backupd backup)",
    "remove the files there that backupd did not send": "elimine allí los archivos que backupd no envió",
    # SFTP.
    "backupd tries again": "backupd lo intenta de nuevo",
    "if it keeps failing": "si sigue fallando",
    "check the host, its port, and the network between": "revise el servidor, su puerto y la red entre ambos",
    "check the host, its port and the network between": "revise el servidor, su puerto y la red entre ambos",
    "check the network": "revise la red",
    "the load of that host": "la carga de ese servidor",
    "check which server answers at that port": "revise qué servidor responde en ese puerto",
    "see the server's log": "vea el registro del servidor",
    "see the server's log (`journalctl -u ssh`)": "vea el registro del servidor (`journalctl -u ssh`)",
    "update the server": "actualice el servidor",
    "make an ed25519 host key (`ssh-keygen -A`)": "cree una clave ed25519 del servidor (`ssh-keygen -A`)",
    "allow one that backupd supports on the server ({} in sshd_config)": (
        "permita en el servidor uno que backupd admita ({} en sshd_config)"
    ),
    "use an ed25519 key (ssh-keygen -t ed25519)": "use una clave ed25519 (ssh-keygen -t ed25519)",
    "check `ssh-add -l`": "revise `ssh-add -l`",
    "`ssh-add -l`": "`ssh-add -l`",
    "check SSH_AUTH_SOCK and `ssh-add -l`": "revise SSH_AUTH_SOCK y `ssh-add -l`",
    "set private_key": "defina private_key",
    "check username": "revise username",
    "a password must be right and allowed, and a key's public line (`ssh-keygen -y -f KEY`) must be in "
    "~/.ssh/authorized_keys of {} on the server, writable only by that account": (
        "la contraseña debe ser correcta y estar permitida, y la línea pública de la clave (`ssh-keygen -y -f KEY`) "
        "debe estar en ~/.ssh/authorized_keys de {} en el servidor, con escritura solo para esa cuenta"
    ),
    "backupd cannot answer such questions": "backupd no puede responder a esas preguntas",
    "use a key": "use una clave",
    "exempt the account from them": "exima de ellas a la cuenta",
    "the server requires several methods": "el servidor exige varios métodos",
    "set both private_key and password": "defina private_key y password",
    "exempt the account": "exima a la cuenta",
    "an old server may know RSA keys only with SHA-1": "un servidor antiguo puede conocer claves RSA solo con SHA-1",
    "try an ed25519 key": "pruebe con una clave ed25519",
    "set private_key to the complete file": "defina private_key con el archivo completo",
    "to the one line that `base64 -w0 FILE` prints": "con la única línea que imprime `base64 -w0 FILE`",
    "use the file without .pub": "use el archivo sin .pub",
    "puttygen KEY.ppk -O private-openssh -o KEY": "puttygen KEY.ppk -O private-openssh -o KEY",
    "set it as `base64 -w0 FILE` prints it": "defínala como la imprime `base64 -w0 FILE`",
    "set passphrase (BACKUPD_REPLICAS__NAME__PASSPHRASE)": "defina passphrase (BACKUPD_REPLICAS__NAME__PASSPHRASE)",
    "use a key without one": "use una clave sin ella",
    "try it where the key is": "pruébela donde está la clave",
    "ssh-keygen -y -f FILE": "ssh-keygen -y -f FILE",
    "make a new one": "cree una nueva",
    "ssh-keygen -t ed25519 -f backupd_key": "ssh-keygen -t ed25519 -f backupd_key",
    "set private_key or password in [replicas.NAME]": "defina private_key o password en [replicas.NAME]",
    "SSH_AUTH_SOCK to an agent that holds a key": "SSH_AUTH_SOCK con un agente que tenga una clave",
    "check known_hosts, the mount, and the permissions": "revise known_hosts, el montaje y los permisos",
    "nothing was sent: this may be a man-in-the-middle. Ask the server's administrator": (
        "no se envió nada: puede ser un ataque de intermediario. Pregunte al administrador del servidor"
    ),
    "if it has a new key": "si tiene una clave nueva",
    "`backupd trust {}` shows how to compare it": "`backupd trust {}` muestra cómo compararla",
    "the line that pins it": "la línea que la fija",
    "`backupd trust {}` shows its keys, how to compare them": "`backupd trust {}` muestra sus claves, cómo compararlas",
    "the line that pins one": "la línea que fija una",
    "correct the line": "corrija la línea",
    "a revoked key must be readable": "una clave revocada debe ser legible",
    "write a line as in known_hosts": "escriba una línea como en known_hosts",
    "just 'ssh-ed25519 AAAA…'": "solo 'ssh-ed25519 AAAA…'",
    "`backupd trust NAME` prints it": "`backupd trust NAME` la imprime",
    # Restore drills.
    "run backupd replicate": "ejecute backupd replicate",
    "backupd backup first": "antes backupd backup",
    "see in backupd status why nothing newer is sent": "vea en backupd status por qué no se envía nada más nuevo",
    "it may be the live app": "puede ser la aplicación en uso",
    "an instance that still has the copy of an earlier drill open": (
        "una instancia que aún tiene abierta la copia de un ensayo anterior"
    ),
    "the second instance must run only while its database exists (docs/drill.md)": (
        "la segunda instancia debe ejecutarse solo mientras exista su base (docs/drill.md)"
    ),
    "use the URL of a second instance, which runs only while its database exists (docs/drill.md)": (
        "use la URL de una segunda instancia, que se ejecute solo mientras exista su base (docs/drill.md)"
    ),
    "start processes that keep running in the background": "inicie en segundo plano los procesos que siguen activos",
    "raise drill.timeout_s": "aumente drill.timeout_s",
    "simplify drill.query": "simplifique drill.query",
    "check drill.command": "revise drill.command",
    "check drill.query": "revise drill.query",
    "texts are in single quotes, also in views of the app": (
        "los textos van entre comillas simples, también en las vistas de la aplicación"
    ),
    "check drill.query and drill.answer": "revise drill.query y drill.answer",
    "use drill.command or drill.health_url instead of drill.query and drill.user_version": (
        "use drill.command o drill.health_url en lugar de drill.query y drill.user_version"
    ),
    "read its output (backupd drill --json)": "lea su salida (backupd drill --json)",
    "let drill.command check the copy": "haga que drill.command compruebe la copia",
    "with the app's key": "con la clave de la aplicación",
    "look at the log of the app": "vea el registro de la aplicación",
    "look at the log of the app that was started on the restored copy": (
        "vea el registro de la aplicación que se inició con la copia restaurada"
    ),
    "stop the second instance": "pare la segunda instancia",
    "if that file is not needed": "si ese archivo no hace falta",
    "remove it, its -wal and its -shm": "elimínelo junto con su -wal y su -shm",
    "find out which process put it there": "averigüe qué proceso lo puso ahí",
    "create it": "créelo",
    "mount its volume": "monte su volumen",
    "choose another directory, which is not mounted from there": "elija otro directorio, que no esté montado desde ahí",
    **GATE_HINTS,
    **POINT_HINTS,
}
