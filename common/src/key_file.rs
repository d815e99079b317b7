//! The private keys of a process, and the key file of the embedded backend.
//!
//! Invariants: only the owner can read the key file. A crash leaves either the old file or the new one.

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;

use crate::sealing::{PrivateKeys, SealingError};

/// The place where the private keys of a process are stored.
#[derive(Debug, Clone)]
pub enum Keyring {
    /// The configuration.
    Configured(PrivateKeys),
    /// The key file of the embedded backend. It is read at each use, because `pagesync keys rotate`
    /// can change it at any time.
    File(PathBuf),
}

/// The name of the key file of the embedded backend, in the directory of the database.
pub const KEY_FILE: &str = "token.keys";

impl Keyring {
    /// Returns the present keys. Fails if the key file cannot be used.
    pub fn keys(&self) -> Result<PrivateKeys, SealingError> {
        match self {
            Self::Configured(keys) => Ok(keys.clone()),
            Self::File(path) => read_key_file(path),
        }
    }
}

/// Opens the key file of the embedded backend, and creates it with a new key if it does not exist.
/// Fails if it cannot be read or written, contains no valid key, or is accessible to other users.
pub fn open_key_file(data_dir: &Path) -> Result<Keyring, SealingError> {
    let path = data_dir.join(KEY_FILE);
    if !path.exists() {
        write_key_file(&path, &PrivateKeys::generate())?;
    }
    read_key_file(&path)?;
    Ok(Keyring::File(path))
}

fn read_key_file(path: &Path) -> Result<PrivateKeys, SealingError> {
    use std::os::unix::fs::PermissionsExt as _;
    let file_error = |reason: String| SealingError::File {
        path: path.to_owned(),
        reason,
    };
    let metadata = std::fs::metadata(path).map_err(|error| file_error(error.to_string()))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        let reason = "other users have access to it: run chmod 600";
        return Err(file_error(reason.to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| file_error(error.to_string()))?;
    PrivateKeys::parse(&text).map_err(|error| {
        file_error(format!(
            "{error}: restore it from a backup, or move it away and let people log in again"
        ))
    })
}

/// Writes the key file with mode 0600, so that a crash leaves either the old file or the new one.
pub fn write_key_file(path: &Path, keys: &PrivateKeys) -> Result<(), SealingError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let write = || {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let new_path = path.with_extension("keys.new");
        let _ = std::fs::remove_file(&new_path);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&new_path)?;
        file.write_all(keys.text().expose_secret().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new_path, path)?;
        std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error: std::io::Error| SealingError::File {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_file_is_created_once_with_mode_600_and_refused_with_another_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let id = |keyring: &Keyring| keyring.keys().unwrap().current().id().to_owned();
        let first = id(&open_key_file(directory.path()).unwrap());
        assert_eq!(id(&open_key_file(directory.path()).unwrap()), first);
        let path = directory.path().join("token.keys");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(open_key_file(directory.path()).is_err());
    }
}
