package datapath

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/world"
)

// Commands of ethtool that set one value.
const (
	ethtoolGRO       = 0x2c // ETHTOOL_SGRO
	ethtoolGSO       = 0x24 // ETHTOOL_SGSO
	ethtoolTSO       = 0x1f // ETHTOOL_STSO
	ethtoolChecksum  = 0x17 // ETHTOOL_STXCSUM
	ethtoolGetFlags  = 0x25
	ethtoolSetFlags  = 0x26
	ethtoolTagsOnTx  = 1 << 7 // ETH_FLAG_TXVLAN
	ethtoolTagsOnRx  = 1 << 8 // ETH_FLAG_RXVLAN
	ethtoolSwitchOff = 0
)

// ethtool sets a value of an interface's device, and returns what the device says.
func ethtool(i world.Interface, command, value uint32) (uint32, error) {
	said := struct{ command, value uint32 }{command, value}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&said)}
	copy(request.name[:], i.Name)
	err := i.Host.Run(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return fmt.Errorf("ethtool command %#x on %s: %w", command, i.Name, errno)
		}
		return nil
	})
	runtime.KeepAlive(&said)
	return said.value, err
}

// withoutTagOffload has a device put VLAN tags into its frames itself.
func withoutTagOffload(i world.Interface) error {
	flags, err := ethtool(i, ethtoolGetFlags, 0)
	if err != nil {
		return err
	}
	_, err = ethtool(i, ethtoolSetFlags, flags&^(ethtoolTagsOnTx|ethtoolTagsOnRx))
	return err
}
