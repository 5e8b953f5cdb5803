package presence_test

import (
	"testing"

	"github.com/parleymq/parley/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }
