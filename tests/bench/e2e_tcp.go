package main

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/world"
)

// serve accepts connections at a lane's server, each in a thread of its own if it is
// to stay, and hands them to f.
func (f *field) serve(l *lane, handle func(fd int)) error {
	listener := -1
	err := l.server.Run(func() (err error) {
		if listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		address := &unix.SockaddrInet4{Port: bed.ServicePort, Addr: bed.MemberAddress(4).As4()}
		if err := unix.Bind(listener, address); err != nil {
			return err
		}
		return unix.Listen(listener, 128)
	})
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
			if err == unix.EINTR || err == unix.ECONNABORTED {
				continue
			}
			if err != nil {
				return // the listener was shut down
			}
			handle(fd)
		}
	}()
	f.close = append(f.close, func() error {
		err := unix.Shutdown(listener, unix.SHUT_RD)
		<-done
		if err != nil {
			return err
		}
		return unix.Close(listener)
	})
	return nil
}

// dial connects from a lane's client. The caller closes what it returns, by a reset.
func (l *lane) dial() (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return fd, err
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return fd, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fd, err
	}
	return fd, unix.Connect(fd, &unix.SockaddrInet4{Port: bed.ServicePort, Addr: bed.MemberAddress(4).As4()})
}

// ask sends a byte and waits for one.
func ask(fd int) error {
	var b [1]byte
	if _, err := unix.Write(fd, b[:]); err != nil {
		return err
	}
	n, err := unix.Read(fd, b[:])
	if err == nil && n != 1 {
		err = fmt.Errorf("the server closed the connection")
	}
	return err
}

// echo answers until the other side ends.
func echo(fd int) {
	var b [1]byte
	for {
		n, err := unix.Read(fd, b[:])
		if err != nil || n == 0 {
			break
		}
		if _, err := unix.Write(fd, b[:]); err != nil {
			break
		}
	}
	_ = unix.Close(fd) // the client has ended it already
}

// onLanes makes slices on the lanes that TCP goes over.
func (f *field) onLanes(slice func(l *lane) (measure.Slice, error)) (map[string]measure.Slice, error) {
	bySide := map[string]measure.Slice{}
	for _, name := range slices.Sorted(maps.Keys(f.lanes)) {
		s, err := slice(f.lanes[name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		bySide[name] = s
	}
	return bySide, nil
}

// connections measures connections with a byte each way, one after the other, by the
// CPU time of both ends.
func (f *field) connections() error {
	bySide, err := f.onLanes(func(l *lane) (measure.Slice, error) {
		if err := f.serve(l, echo); err != nil {
			return nil, err
		}
		return func() (ns float64, err error) {
			return ns, l.client.Run(func() error {
				began, used, made := time.Now(), bed.ProcessTime(), 0
				for ; time.Since(began) < 60*time.Millisecond; made++ {
					fd, err := l.dial()
					if err == nil {
						err = ask(fd)
					}
					if err != nil {
						return fmt.Errorf("connection %d: %w", made+1, err)
					}
					if err := unix.Close(fd); err != nil {
						return err
					}
				}
				ns = float64(bed.ProcessTime()-used) / float64(made)
				return nil
			})
		}, nil
	})
	if err != nil {
		return err
	}
	samples, err := f.compete(bySide)
	if err != nil {
		return err
	}
	return f.tellRates(samples, "connections/CPU s", 1e9, 0.95)
}

// tellRates tells what share of the rate without a filter is left, of costs.
func (f *field) tellRates(samples measure.Samples, unit string, per, least float64) error {
	peer := samples.Absolute(laneNft).Inverse(per)
	row := func(what, entrant string, targets []measure.Target) {
		f.add(measure.Row{Name: f.name + "/" + what, Unit: unit, Ours: samples.Absolute(entrant).Inverse(per),
			Floor: samples.Baseline(entrant).Inverse(per), FloorIs: "none", Peer: peer, Targets: targets})
	}
	row("tc", laneOurs, []measure.Target{{Of: measure.OfRatioFloor, Least: least}})
	row("xdp", laneXDP, nil)
	row("track", laneTrack, nil)
	f.add(measure.Row{Name: f.name + "/nftables", Unit: unit, Ours: peer, Floor: samples.Baseline(laneNft).Inverse(per), FloorIs: "none"})
	f.add(measure.Row{Name: f.name + "/noise", Unit: unit, Ours: samples.Absolute(laneAgain).Inverse(per), Floor: samples.Baseline(laneAgain).Inverse(per), FloorIs: "none"})
	return nil
}

// latency measures a byte there and back on a connection that stands.
func (f *field) latency() error {
	asked := map[*lane]int{}
	for _, name := range commonLanes() {
		l := f.lanes[name]
		if err := f.serve(l, echo); err != nil {
			return err
		}
		err := l.client.Run(func() (err error) {
			asked[l], err = l.dial()
			return err
		})
		if err != nil {
			return err
		}
		defer unix.Close(asked[l])
	}
	for _, c := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		bySide, err := f.onLanes(func(l *lane) (measure.Slice, error) {
			return func() (float64, error) {
				var took measure.Series
				for began := time.Now(); time.Since(began) < 40*time.Millisecond; {
					before := time.Now()
					if err := ask(asked[l]); err != nil {
						return 0, err
					}
					took = append(took, float64(time.Since(before))/1e3)
				}
				return took.Quantile(c.at), nil
			}, nil
		})
		if err != nil {
			return err
		}
		samples, err := f.compete(bySide)
		if err != nil {
			return err
		}
		peer := samples.Absolute(laneNft)
		for _, lane := range []struct{ what, name string }{{"tc", laneOurs}, {"xdp", laneXDP}, {"noise", laneAgain}} {
			f.add(measure.Row{Name: fmt.Sprintf("%s/%s/%s", f.name, c.name, lane.what), Unit: "us", Ours: samples.Absolute(lane.name),
				Floor: samples.Baseline(lane.name), FloorIs: "none", Peer: peer})
		}
	}
	return nil
}

// Commands of linux/ethtool.h that tell whether a device puts segments together or
// cuts them apart: ETHTOOL_GTSO, ETHTOOL_GGSO, ETHTOOL_GGRO. The next one sets it.
var segmentation = []uint32{0x1e, 0x23, 0x2b}

func (f *field) throughputNoGSO() error {
	for _, l := range f.lanes {
		for _, end := range []world.Interface{l.near, l.far} {
			for _, command := range segmentation {
				on, err := end.Ethtool(command, 0)
				if err == nil && on != 0 { // where XDP is, some are off and cannot be set
					_, err = end.Ethtool(command+1, 0)
				}
				if err != nil {
					return err
				}
			}
		}
	}
	return f.throughput(0.95)
}

func (f *field) throughputGSO() error { return f.throughput(0.98) }

// throughput measures bytes of one TCP connection a lane, as the server gets them, by
// the CPU time of both ends.
func (f *field) throughput(least float64) error {
	bySide, err := f.onLanes(func(l *lane) (measure.Slice, error) {
		var received atomic.Int64
		err := f.serve(l, func(fd int) {
			buffer := make([]byte, 1<<18)
			for {
				n, err := unix.Read(fd, buffer)
				if err != nil || n == 0 {
					break
				}
				received.Add(int64(n))
			}
			_ = unix.Close(fd) // the client has ended it
		})
		if err != nil {
			return nil, err
		}
		fd := -1
		if err := l.client.Run(func() (err error) { fd, err = l.dial(); return err }); err != nil {
			return nil, err
		}
		f.close = append(f.close, func() error { return unix.Close(fd) })
		data := make([]byte, 1<<18)
		return func() (float64, error) {
			before, began, used := received.Load(), time.Now(), bed.ProcessTime()
			for time.Since(began) < 80*time.Millisecond {
				if _, err := unix.Write(fd, data); err != nil {
					return 0, err
				}
			}
			got := received.Load() - before
			if got == 0 {
				return 0, fmt.Errorf("nothing arrived")
			}
			return float64(bed.ProcessTime()-used) / float64(got), nil // ns for each byte
		}, nil
	})
	if err != nil {
		return err
	}
	samples, err := f.compete(bySide)
	if err != nil {
		return err
	}
	return f.tellRates(samples, "Gbit/CPU s", 8, least)
}
