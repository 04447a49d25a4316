#!/usr/bin/env bash
# Builds the tests for another system, and runs them here under an emulator:
#
#   tests/portable/run.sh windows                          all tests, under Wine
#   tests/portable/run.sh aarch64 --test it forest::       a part of them, under QEMU
#
# Needs the standard library for the target, as `rustup target add x86_64-pc-windows-gnu` or
# `rustup target add aarch64-unknown-linux-gnu` installs it; a C compiler for the target; and the
# emulator. On Debian, these packages bring the latter two:
#
#   windows   gcc-mingw-w64-x86-64 wine64
#   aarch64   gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user qemu-user-binfmt
#
# Where rustup does not run, BUILD_STD=1 builds the standard library from its source, which Debian
# has in rust-src.
set -euo pipefail
cd "$(dirname "$0")/../.."

case "${1:-}" in
  windows)
    target=x86_64-pc-windows-gnu
    export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
    export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=wine
    # Wine's own messages would get between the lines that the tests read.
    export WINEDEBUG=-all
    ;;
  aarch64)
    target=aarch64-unknown-linux-gnu
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
    # Also for the program, which tests start themselves: binfmt_misc finds QEMU for it.
    export QEMU_LD_PREFIX=/usr/aarch64-linux-gnu
    ;;
  *)
    echo "usage: $0 windows|aarch64 [arguments of cargo test, then of the tests]" >&2
    exit 2
    ;;
esac
shift

std=()
if [ -n "${BUILD_STD:-}" ]; then
  export RUSTC_BOOTSTRAP=1
  std=(-Z build-std=std,panic_unwind,test)
fi
# Emulated tests take long enough; without debug information, the build takes less.
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0
cargo test --locked --target "$target" "${std[@]}" "$@"
