package bed

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"

	"github.com/perimeterd/perimeterd/tests/world"
)

// NftMissing says what to do if there is no nftables to compare with; nil if there is.
func NftMissing() error {
	if _, err := exec.LookPath("nft"); err != nil {
		return errors.New("nft, which is measured beside, is not installed: apt-get install nftables")
	}
	return nil
}

// Ruleset is what ListPolicy is in the words of nftables: a set of intervals,
// conntrack, and a default of drop for what goes to the member.
type Ruleset struct {
	Prefixes []netip.Prefix // of IPv4
	Hook     string         // input or forward
	Log      bool           // packets that are judged by a rule go to a log group
}

// WriteFile writes a file for `nft -f`.
func (r Ruleset) WriteFile(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	log := ""
	if r.Log {
		log = "log group 7 "
	}
	fmt.Fprintf(w, "table inet perimeter {\n\tset listed {\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\tauto-merge\n\t\telements = {\n")
	for _, p := range r.Prefixes {
		fmt.Fprintf(w, "%s,\n", p)
	}
	fmt.Fprintf(w, `		}
	}
	chain judge {
		type filter hook %s priority 0; policy accept;
		ct state established,related accept
		ip saddr @listed ip daddr %s meta l4proto { tcp, udp } th dport %d %saccept
		ip daddr %s %sdrop
	}
}
`, r.Hook, MemberAddress(4), ServicePort, log, MemberAddress(4), log)
	return errors.Join(w.Flush(), f.Close())
}

// LoadRuleset has nft load a file on a host.
func LoadRuleset(host *world.Host, file string) error {
	return nft(host, "-f", file)
}

// FlushRuleset takes all rules of a host away.
func FlushRuleset(host *world.Host) error {
	return nft(host, "flush", "ruleset")
}

func nft(host *world.Host, arguments ...string) error {
	return host.Run(func() error {
		if out, err := exec.Command("nft", arguments...).CombinedOutput(); err != nil {
			return fmt.Errorf("nft %v: %w: %s", arguments, err, out)
		}
		return nil
	})
}
