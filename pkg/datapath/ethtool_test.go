package datapath

import (
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
	return i.Ethtool(command, value)
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
