//! Fans of a board that cools itself.

use super::Gpu;

impl Gpu<'_> {
    /// How many; a module has none.
    pub(crate) fn fans(&self) -> usize {
        let table = &self.spec.table;
        table.fans.as_ref().map_or(usize::from(table.fan.is_some()), |fans| fans.get_ref().speed.len())
    }

    /// %, of one fan; `None` where there is no such fan.
    pub(crate) fn fan(&self, at: usize) -> Option<f64> {
        let table = &self.spec.table;
        let series = match &table.fans {
            Some(fans) => fans.get_ref().speed.get(at),
            None => table.fan.as_ref().filter(|_| at == 0),
        };
        series.map(|it| it.at(self.t))
    }

    /// %, that it is to have.
    pub(crate) fn fan_target(&self, at: usize) -> Option<f64> {
        let given = self.spec.table.fans.as_ref().and_then(|fans| fans.get_ref().target.as_ref());
        let now = self.fan(at)?;
        Some(given.map_or(now, |series| series.at(self.t)))
    }

    /// Turns a minute; `None` where the driver does not tell.
    pub(crate) fn fan_rpm(&self, at: usize) -> Option<u64> {
        let fans = self.spec.table.fans.as_ref()?.get_ref();
        fans.rpm.as_ref()?.get(at).map(|series| series.at(self.t) as u64)
    }

    /// Whether somebody has taken the fans from the driver.
    pub(crate) fn fans_are_manual(&self) -> bool {
        self.spec.table.fans.as_ref().is_some_and(|fans| fans.get_ref().manual)
    }
}
