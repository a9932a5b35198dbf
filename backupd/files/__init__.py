"""Sets of files: directories beside the databases of an app, such as uploads, which somebody else may write to."""
