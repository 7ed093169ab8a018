//! Devices by name.

use burn::tensor::Device;

use super::settings::invalid;
use crate::error::Result;

/// The devices that [`device`] knows in this build.
const DEVICES: &[&str] = &[
    "flex",
    #[cfg(feature = "wgpu")]
    "wgpu",
    #[cfg(feature = "cuda")]
    "cuda",
];

/// The device called `name`, without autodiff: `flex` is the CPU, `wgpu` the default one of Vulkan, Metal or
/// WebGPU (feature `wgpu`), `cuda` the first of CUDA (feature `cuda`).
///
/// # Errors
/// [`Error::InvalidSetting`](crate::Error::InvalidSetting) where this build does not know it, or there is none.
pub fn device(name: &str) -> Result<Device> {
    let none = |why: String| invalid("device", why);
    match name {
        "flex" => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu" => match Device::enumerate(burn::tensor::DeviceType::Wgpu).is_empty() {
            false => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
            true => Err(none(
                "there is no Vulkan, Metal or WebGPU device; a software one for Vulkan comes with Debian's \
                 mesa-vulkan-drivers"
                    .into(),
            )),
        },
        #[cfg(feature = "cuda")]
        "cuda" => match Device::enumerate(burn::tensor::DeviceType::Cuda).is_empty() {
            false => Ok(Device::cuda(0)),
            true => Err(none("there is no CUDA device, or no driver (libcuda) for it".into())),
        },
        _ => Err(none(format!("no device is called `{name}` in this build; there are: {}", DEVICES.join(", ")))),
    }
}
