// Curves of a study: every seed a thin line, every arm's mean a thick one. Drawn by uPlot, which stands above.
(() => {
  const { arms, lines } = JSON.parse(document.getElementById("data").textContent);
  const shown = arms.map((arm) => arm.shown);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  let unit = "steps";
  let drawn = [];

  // The mean of an arm's seeds at the steps that all of them have.
  function meanOf(own) {
    const counts = new Map();
    for (const line of own) {
      line.steps.forEach((step, i) => {
        const found = counts.get(step) || [0, 0];
        counts.set(step, [found[0] + 1, found[1] + line.values[i]]);
      });
    }
    const steps = [...counts.keys()].filter((step) => counts.get(step)[0] === own.length);
    steps.sort((a, b) => a - b);
    return { steps, values: steps.map((step) => counts.get(step)[1] / own.length) };
  }

  function curvesOf(key) {
    const found = [];
    arms.forEach((arm, number) => {
      if (!shown[number] || (unit === "seconds" && !arm.seconds)) return;
      const own = (lines[key] || []).filter((line) => line.arm === number);
      if (own.length === 0) return;
      const factor = unit === "seconds" ? arm.seconds : 1;
      const scaled = (steps) => steps.map((step) => step * factor);
      if (own.length > 1) {
        for (const line of own) {
          const name = `${arm.name}, seed ${line.seed}`;
          found.push({ arm, name, width: 0.75, x: scaled(line.steps), y: line.values });
        }
      }
      const mean = meanOf(own);
      const name = own.length > 1 ? `${arm.name}, mean of ${own.length}` : `${arm.name}, seed ${own[0].seed}`;
      found.push({ arm, name, width: 2.5, x: scaled(mean.steps), y: mean.values });
    });
    return found;
  }

  function read(chart, curves, box) {
    const { left, top } = chart.cursor;
    let best = null;
    box.hidden = true;
    if (left < 0) return;
    curves.forEach((curve) => {
      curve.x.forEach((x, i) => {
        const dx = chart.valToPos(x, "x") - left;
        const dy = chart.valToPos(curve.y[i], "y") - top;
        const far = dx * dx + dy * dy;
        if (far < 900 && (best === null || far < best.far)) best = { far, curve, x, y: curve.y[i] };
      });
    });
    if (best === null) return;
    box.hidden = false;
    const at = unit === "seconds" ? `${best.x.toPrecision(4)} s` : `step ${best.x}`;
    box.textContent = `${best.curve.name}: ${best.y.toPrecision(5)} at ${at}`;
  }

  function draw(place) {
    place.textContent = "";
    const curves = curvesOf(place.dataset.key);
    if (curves.length === 0) {
      place.textContent = "nothing to show";
      return;
    }
    const box = document.createElement("output");
    box.className = "reading";
    box.hidden = true;
    const joined = uPlot.join(curves.map((curve) => [curve.x, curve.y]));
    const axis = { stroke: colour("--text"), grid: { stroke: colour("--rule"), width: 1 }, ticks: { stroke: colour("--rule") } };
    const chart = new uPlot(
      {
        width: place.clientWidth,
        height: Math.min(320, Math.max(200, place.clientWidth * 0.6)),
        legend: { show: false },
        scales: { x: { time: false } },
        axes: [{ ...axis, label: unit === "seconds" ? "seconds" : "optimizer steps", labelSize: 20 }, { ...axis, size: 62 }],
        cursor: { points: { show: false }, drag: { x: true, y: true, uni: 20 } },
        series: [
          {},
          ...curves.map((curve) => ({
            stroke: curve.arm.colour,
            width: curve.width,
            dash: curve.arm.dash.length ? curve.arm.dash : undefined,
            alpha: curve.width < 1 ? 0.55 : 1,
            points: { show: curve.width > 1 && curve.x.length < 25, size: 4, fill: curve.arm.colour },
            spanGaps: true,
          })),
        ],
        hooks: { setCursor: [(chart) => read(chart, curves, box)] },
      },
      joined,
      place,
    );
    place.append(box);
    drawn.push(chart);
  }

  function drawAll() {
    drawn.forEach((chart) => chart.destroy());
    drawn = [];
    document.querySelectorAll(".chart").forEach(draw);
  }

  const list = document.getElementById("arms");
  if (!list) return;
  arms.forEach((arm, number) => {
    const label = document.createElement("label");
    const box = document.createElement("input");
    const mark = document.createElement("i");
    box.type = "checkbox";
    box.checked = arm.shown;
    box.addEventListener("change", () => {
      shown[number] = box.checked;
      drawAll();
    });
    mark.className = "mark";
    mark.style.borderTop = `3px ${arm.dash.length ? "dashed" : "solid"} ${arm.colour}`;
    label.append(box, mark, ` ${arm.name}`);
    list.append(label);
  });
  document.querySelectorAll("input[name=unit]").forEach((box) =>
    box.addEventListener("change", () => {
      unit = box.value;
      drawAll();
    }),
  );

  drawAll();
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) {
      width = innerWidth;
      drawAll();
    }
  });
  for (const asked of ["(prefers-color-scheme: dark)", "print"]) matchMedia(asked).addEventListener("change", drawAll);
})();
