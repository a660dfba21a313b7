"""The archive engine: moves old metadata out of the database into Parquet files, and loses no row on the way.

Module map; each folder imports only what stands above it:

shelf, archives at rest:
- `manifest`  what an archive is on disk: its documents, their states, and which files count. No third-party import.
- `store`     where archives are kept: a directory, or an object store by fsspec. Durable and atomic writes.
- `columns`   PostgreSQL's types in Arrow and back: text of COPY -> Arrow table -> text of COPY, equal byte by byte.
- `times`     PostgreSQL's text of times that Arrow and Python lack: BC, far ahead, infinity.
- `copy_text` the text of COPY.
- `reader`    a data file, checked against the manifest before a row of it is used.
- `verify`, `query`, `listing`, `prune`  what `ops archive` does without the database.

here, what both directions need:
- `settings`  how this host archives; `session` the engine's database sessions.
- `lock`      one advisory lock for everybody who moves rows out or back.
- `places`    where vacuums have archived, so that one that was killed is settled wherever that was.
- `failures`  what an error means to whoever asked: one line and an exit code.
- `holds`     runs that were restored and are to stay.
- `runs`      how the last vacuum went, for `ops status` and Prometheus.

take, rows out of the database:
- `catalog`   tables, columns and foreign keys, read from pg_catalog.
- `graph`     the committed list of families (what hangs off a dag run, what stands alone) and the check of it against
              the catalog: whatever it does not know by name is refused before anything is changed.
- `policy`    which runs and rows are old enough: the policy's YAML as SQL.
- `statements` the SQL of a family, put together from its edges.
- `export`    COPY out of the database into Parquet files, and the proof that they hold what was read.
- `batches`   walks through a family, exports what may go, and gives it in batches of slices.
- `move`      the bounded transaction that takes away exactly the row versions that were exported.
- `pace`      when to slow down: the latency of a scheduler-like probe, heartbeats, replication lag.
- `settle`    what is left of a run that was killed: makes files and database agree, batch by batch.
- `maintain`  VACUUM (ANALYZE) afterwards, and giving space back to the disk.
- `plan`      what one vacuum may take: a request against the catalog; `result` what it has done.
- `loop`      slices of each family, moved by several sessions, no faster than others can bear.
- `engine`    one vacuum from its beginning to its end, and what a killed one left.

put_back, rows back into it:
- `live`, `keys`, `restore`  whether the schema fits, foreign keys, batches.

Words: a *family* is a root table with all that hangs off its rows (`dag_run`, or a table that stands alone); a *batch*
is what one set of files holds; a *slice* is the part of a batch that one transaction deletes.
"""
