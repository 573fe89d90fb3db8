package world

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ethtool sets a value of the interface's device by a command of linux/ethtool.h
// that takes one, and returns what the device says.
func (i Interface) Ethtool(command, value uint32) (uint32, error) {
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
