//! What is measured: ours and its rivals, each behind the same interface.

pub mod etcd;
pub mod ours;
pub mod perf_test;
pub mod rqlite;

use crate::data::Shape;
use crate::error::Result;
use crate::load::Client;

/// A replicated database that runs on this machine.
pub trait Subject {
    /// Who sends it writes, one request at a time.
    type Client: Client;

    /// A client that writes data of this shape.
    fn client(&self, shape: Shape) -> Self::Client;

    /// So many of them.
    fn clients(&self, count: usize, shape: Shape) -> Vec<Self::Client> {
        (0..count).map(|_| self.client(shape)).collect()
    }

    /// Waits until every replica has applied everything that was answered.
    fn wait_until_applied(&self) -> impl Future<Output = Result<()>>;

    /// The processor time that all its processes have used, in seconds.
    fn processor_seconds(&self) -> f64;
}
