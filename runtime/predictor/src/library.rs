//! Finds and loads the ONNX Runtime library, once a process.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use log::{debug, error, info, trace, warn};
use ort::environment::Environment;
use ort::logging::LogLevel;

use crate::error::Error;

/// The process's one environment. ort keeps only a weak reference and refuses to make a second one, so
/// it must live here.
static ENVIRONMENT: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// Loads ONNX Runtime and returns the library's path. Looks at `library`, `ORT_DYLIB_PATH`, the
/// program's own folder and `../lib` beside it; the first that is named or exists must serve. Later
/// calls return the library that is loaded.
pub fn init_onnx_runtime(library: Option<&Path>) -> Result<PathBuf, Error> {
    Ok(load(library)?.0)
}

/// The environment under which sessions are made, loaded by search if nobody did.
pub fn environment() -> Result<Environment, Error> {
    Ok(load(None)?.1)
}

/// Major and minor version of the loaded library, from its file's name, `libonnxruntime.so.1.31.1` behind any links;
/// `None` where it is called otherwise.
pub(crate) fn release() -> Option<(u32, u32)> {
    let environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    let (path, _) = environment.as_ref()?;
    release_of(&path.canonicalize().ok()?)
}

fn release_of(file: &Path) -> Option<(u32, u32)> {
    let (_, version) = file.file_name()?.to_str()?.split_once(".so.")?;
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn load(library: Option<&Path>) -> Result<(PathBuf, Environment), Error> {
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = &*environment {
        return Ok(loaded.clone());
    }
    let path = find(library)?;
    let fault = |reason: String| Error::Library { path: path.clone(), reason };
    let built = ort::init_from(&path)
        .map_err(|e| fault(e.to_string()))?
        .with_name("nextclip")
        .with_telemetry(false)
        .with_logger(Arc::new(forward_log))
        .build()
        .map_err(|e| fault(e.to_string()))?;
    info!("ONNX Runtime {}", path.display());
    Ok(environment.insert((path, built)).clone())
}

fn find(library: Option<&Path>) -> Result<PathBuf, Error> {
    let named = library.map(Path::to_path_buf).or_else(|| {
        let value = env::var_os("ORT_DYLIB_PATH")?;
        (!value.is_empty()).then(|| value.into())
    });
    // A library that was named is the one meant: its absence is no reason to take another.
    let candidates = match named {
        Some(path) => vec![std::path::absolute(&path).unwrap_or(path)],
        None => beside_program(),
    };
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(Error::LibraryNotFound { searched: candidates }),
    }
}

fn beside_program() -> Vec<PathBuf> {
    let name = format!("{}onnxruntime{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    let Some(folder) = env::current_exe().ok().and_then(|program| program.parent().map(Path::to_path_buf))
    else {
        return vec![PathBuf::from(name)];
    };
    vec![folder.join(&name), folder.join("../lib").join(&name)]
}

fn forward_log(level: LogLevel, _category: &str, _id: &str, _location: &str, message: &str) {
    match level {
        LogLevel::Verbose => trace!("{message}"),
        LogLevel::Info => debug!("{message}"),
        LogLevel::Warning => warn!("{message}"),
        LogLevel::Error | LogLevel::Fatal => error!("{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_read_from_the_name() {
        let release = |name: &str| release_of(Path::new(name));
        assert_eq!(release("/opt/ort/libonnxruntime.so.1.31.1"), Some((1, 31)));
        assert_eq!(release("libonnxruntime.so.1.23"), Some((1, 23)));
        assert_eq!(release("libonnxruntime.so.1"), None);
        assert_eq!(release("libonnxruntime.so"), None);
        assert_eq!(release("libonnxruntime.1.31.1.dylib"), None);
    }
}
